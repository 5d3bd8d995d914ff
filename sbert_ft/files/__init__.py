"""Bytes and JSON of strangers, and files that are whole or not there."""
