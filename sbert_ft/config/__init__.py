"""Reads a run's JSON to checked, frozen settings, and writes it back."""
