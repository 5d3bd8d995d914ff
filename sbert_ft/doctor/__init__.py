"""Check whether a model folder is complete and suits given texts."""
