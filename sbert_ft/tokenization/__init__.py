"""Tokenizer files to a Rust tokenizer; texts and pairs to token ids."""
