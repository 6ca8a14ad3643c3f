"""Folders, files and installed text to corpora and mixtures."""
