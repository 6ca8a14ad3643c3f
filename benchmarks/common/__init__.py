"""What several benchmarks share: what they train, how their figures are kept and how they are shown."""
