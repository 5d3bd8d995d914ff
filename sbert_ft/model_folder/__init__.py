"""A model's folder, read and written."""
