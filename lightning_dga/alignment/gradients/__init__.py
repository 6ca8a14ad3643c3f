"""The target gradient, the products of other gradients with it, and their sums over samples and ranks."""
