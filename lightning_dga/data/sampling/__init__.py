"""Which sample comes next, a pure function of its index: the domain by the weights, the sample by a permutation."""

from lightning_dga.data.sampling.composition import Composition
from lightning_dga.data.sampling.samplings import Sampling, make_sampling

__all__ = ["Composition", "Sampling", "make_sampling"]
