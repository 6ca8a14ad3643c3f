"""Independent draws: each sample's domain is random, with the weights as probabilities."""

import numpy as np
from numpy.typing import NDArray

from lightning_dga.data.sampling.segment import WeightsSegment


class Multinomial:
    """Draws sample n by inverting the weights' cumulative sum at the n-th number of a counter-based generator.

    The generator is Philox (Salmon et al., SC 2011).

    Args:
        seed: Seed of the generator.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def enter(self, segment: WeightsSegment, before: WeightsSegment | None, counts: NDArray[np.int64]) -> None:
        """See :class:`~lightning_dga.data.sampling.samplings.Sampling`; independent draws keep no state."""

    def domains(self, segment: WeightsSegment, start: int, size: int, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """See :class:`~lightning_dga.data.sampling.samplings.Sampling`. Costs O(size log k)."""
        cumulative = segment.cumulative
        # u * total can round up to the total, which is past the last domain with a positive weight
        scaled = np.minimum(uniform(self._seed, start, size) * cumulative[-1], np.nextafter(cumulative[-1], 0))
        return np.searchsorted(cumulative, scaled, side="right")


def uniform(seed: int, start: int, size: int) -> NDArray[np.float64]:
    """Numbers ``start`` to ``start + size`` of a seeded sequence in [0, 1), without generating the earlier ones."""
    generator = np.random.Philox(key=seed & 0xFFFFFFFFFFFFFFFF)
    per_counter = 4  # one Philox counter yields four 64-bit words
    generator.advance(start // per_counter)
    skip = start % per_counter
    words = np.asarray(generator.random_raw(size + skip), dtype=np.uint64)[skip:]
    return (words >> np.uint64(11)) * 2.0**-53
