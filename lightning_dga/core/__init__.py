"""The values that the other subpackages hand to one another: alignments, weights, data budget, basis."""
