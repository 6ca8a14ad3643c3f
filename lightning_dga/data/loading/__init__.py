"""Batches: samples read and collated by workers, recalled and redrawn when the weights change."""
