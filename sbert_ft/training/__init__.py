"""Objectives, checkpoints and the training loop."""
