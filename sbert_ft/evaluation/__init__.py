"""Scores and labels to numbers, numbers to a decision, and all of it to a report."""
