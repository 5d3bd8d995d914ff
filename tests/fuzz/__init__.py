"""Fuzz targets: bytes that a reader turns into a result or refuses with the typed error, and nothing else."""
