"""Gradients sample by sample, layer by layer: which layers have them, and their products with the target gradient."""
