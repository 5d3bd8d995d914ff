"""Objectives, checkpoints and the loop that fine-tunes."""
