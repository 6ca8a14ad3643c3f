"""How the domain of each sample follows from the weights."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lightning_dga.data.sampling.multinomial import Multinomial
from lightning_dga.data.sampling.quota import Quota
from lightning_dga.data.sampling.segment import WeightsSegment


class Sampling(Protocol):
    """Chooses the domains of the stream's samples; a pure function of its arguments, whatever it keeps to be quick."""

    def enter(self, segment: WeightsSegment, before: WeightsSegment | None, counts: NDArray[np.int64]) -> None:
        """Prepares a segment when the stream reaches it.

        Args:
            segment: The segment.
            before: The one that it follows, if any.
            counts: Samples of each domain before the segment, ``[k]``.
        """
        ...

    def domains(self, segment: WeightsSegment, start: int, size: int, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The domains of samples ``start`` to ``start + size``, all of one segment.

        Args:
            segment: The segment, entered.
            start: Index of the first sample in the stream.
            size: How many.
            counts: Samples of each domain before ``start``, ``[k]``.
        """
        ...


_SAMPLINGS: dict[str, Callable[[int], Sampling]] = {"multinomial": Multinomial, "quota": Quota}


def make_sampling(name: str, seed: int) -> Sampling:
    """The sampling of a name.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in _SAMPLINGS:
        raise ValueError(f"`sampling` must be one of {', '.join(map(repr, _SAMPLINGS))}, got {name!r}.")
    return _SAMPLINGS[name](seed)
