"""Read and write a model's folder."""
