"""Per-sample gradients by layer: which layers support them, and their inner products with the target gradient."""
