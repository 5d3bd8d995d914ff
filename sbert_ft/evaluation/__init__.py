"""Compute metrics from scores and labels, fit thresholds and calibrations, and evaluate a run."""
