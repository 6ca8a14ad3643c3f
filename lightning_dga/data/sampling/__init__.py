"""Which sample comes next: the domain from the weights, the sample from a keyed permutation. Pure functions of an index."""

from lightning_dga.data.sampling.composition import Composition
from lightning_dga.data.sampling.samplings import Sampling, make_sampling

__all__ = ["Composition", "Sampling", "make_sampling"]
