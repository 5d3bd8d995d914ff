"""Millions of texts to shards of vectors, by one process, several, or a cluster."""
