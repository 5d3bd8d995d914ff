"""Arrays of vectors: the nearest ones, smaller types, and folders of Parquet shards. Nothing here imports torch."""
