"""Estimators: ways to measure the alignments of all domains with the target."""
