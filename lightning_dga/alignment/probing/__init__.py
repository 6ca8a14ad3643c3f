"""Probe passes through the user's model, after which its state is restored."""
