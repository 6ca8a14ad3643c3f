"""Builds corpora and mixtures from folders, files, and text that ships with Python."""
