"""Stock encoders, and what runs them fast."""
