"""Strict reading of untrusted files and JSON, and atomic writing of files and folders."""
