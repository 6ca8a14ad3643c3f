"""Files to documents: JSON Lines, Parquet and plain text, compressed or remote."""
