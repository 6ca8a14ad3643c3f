"""The protocol of a sampling method, which chooses the domain of each sample by the weights."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lightning_dga.data.sampling.multinomial import Multinomial
from lightning_dga.data.sampling.quota import Quota
from lightning_dga.data.sampling.segment import WeightsSegment


class Sampling(Protocol):
    """Chooses the domains of the stream's samples; a pure function of its arguments, apart from caches."""

    def enter(self, segment: WeightsSegment, before: WeightsSegment | None, counts: NDArray[np.int64]) -> None:
        """Prepares a segment when the stream reaches it.

        Args:
            segment: The segment.
            before: The previous segment, if any.
            counts: Samples of each domain before the segment, ``[k]``.
        """
        ...

    def domains(self, segment: WeightsSegment, start: int, size: int, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The domains of samples ``start`` to ``start + size``, all of one segment.

        Args:
            segment: The segment, after :meth:`enter`.
            start: Index of the first sample in the stream.
            size: Number of samples.
            counts: Samples of each domain before ``start``, ``[k]``.
        """
        ...


_SAMPLINGS: dict[str, Callable[[int], Sampling]] = {"multinomial": Multinomial, "quota": Quota}


def make_sampling(name: str, seed: int) -> Sampling:
    """Makes a sampling method by name.

    Raises:
        ValueError: If the name is unknown.
    """
    if name not in _SAMPLINGS:
        raise ValueError(f"`sampling` must be one of {', '.join(map(repr, _SAMPLINGS))}, got {name!r}.")
    return _SAMPLINGS[name](seed)
