"""Encoders: their folders on disk, their weights and their forward passes."""
