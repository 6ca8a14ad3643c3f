"""Batch loading: workers read and collate samples; batches are recalled and redrawn when the weights change."""
