"""Batches of a single domain: runs of consecutive samples that share a domain."""

import numpy as np
from numpy.typing import NDArray

from lightning_dga.data.sampling.samplings import Sampling
from lightning_dga.data.sampling.segment import WeightsSegment


class BlockSampling:
    """Draws one domain per run of consecutive samples instead of one per sample.

    Args:
        sampling: Draws the domains of runs as it would those of samples. It must not depend on earlier draws.
        length: Samples per run.
    """

    def __init__(self, sampling: Sampling, length: int) -> None:
        self._sampling = sampling
        self._length = length

    def enter(self, segment: WeightsSegment, before: WeightsSegment | None, counts: NDArray[np.int64]) -> None:
        """See :class:`~lightning_dga.data.sampling.samplings.Sampling`."""
        self._sampling.enter(segment, before, counts)

    def domains(self, segment: WeightsSegment, start: int, size: int, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """See :class:`~lightning_dga.data.sampling.samplings.Sampling`."""
        first, last = start // self._length, (start + size - 1) // self._length
        of_runs = self._sampling.domains(segment, first, last - first + 1, counts)
        skipped = start - first * self._length
        return np.repeat(of_runs, self._length)[skipped : skipped + size]
