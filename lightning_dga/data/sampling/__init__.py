"""The sample at each index of the stream: its domain by the weights, its place within the domain by a permutation."""

from lightning_dga.data.sampling.composition import Composition
from lightning_dga.data.sampling.samplings import Sampling, make_sampling

__all__ = ["Composition", "Sampling", "make_sampling"]
