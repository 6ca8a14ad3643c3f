"""Reads documents from files: JSON Lines, Parquet and plain text, also compressed or remote."""
