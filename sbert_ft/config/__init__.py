"""A run's JSON to checked, frozen settings and back."""
