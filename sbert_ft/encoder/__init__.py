"""Stock encoders of transformers, and the code that runs them fast."""
