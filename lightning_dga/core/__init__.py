"""The value types that the other subpackages exchange: alignments, weights, data budget, basis."""
