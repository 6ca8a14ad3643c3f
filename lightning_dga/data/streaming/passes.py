"""The shard that each sample of a stream is read from: every shard is read to its end before any is read again.

Within a pass, shards are read in proportion to their declared sizes, so that they end at about the same time; declared
sizes may be wrong. A shard that has ended is left out until all have ended. So every sample is read once before any is
read a second time, whatever the true sizes, and empty shards are skipped.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

# smallest assumed size of a shard, as a fraction of the largest; used if the declared size is unknown or zero
_LEAST = 1e-6


@dataclass(frozen=True, eq=False)
class Progress:
    """Progress of drawing from a stream.

    Attributes:
        epoch: Number of the current pass.
        counts: Samples drawn from each shard in all passes, ``[S]`` int64.
        ended: Whether each shard was found to have ended in this pass, ``[S]`` bool.
    """

    epoch: int
    counts: NDArray[np.int64]
    ended: NDArray[np.bool_]

    @classmethod
    def start(cls, shards: int) -> "Progress":
        """Nothing drawn."""
        return cls(0, np.zeros(shards, dtype=np.int64), np.zeros(shards, dtype=np.bool_))

    def state_dict(self) -> dict[str, Any]:
        """The fields, as stored in a checkpoint."""
        counts, ended = torch.from_numpy(self.counts.copy()), torch.from_numpy(self.ended.copy())
        return {"epoch": self.epoch, "counts": counts, "ended": ended}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "Progress":
        """The inverse of :meth:`state_dict`."""
        return cls(int(state["epoch"]), state["counts"].numpy().copy(), state["ended"].numpy().copy())


@dataclass(frozen=True, eq=False)
class Placed:
    """Shards and offsets of samples of a stream.

    Attributes:
        shards: Shard of each sample, ``[n]`` int64.
        offsets: Number of samples of the same shard before each sample, over all passes, ``[n]`` int64.
        after: Progress of the stream after these samples.
    """

    shards: NDArray[np.int64]
    offsets: NDArray[np.int64]
    after: Progress


def place(
    before: Progress,
    points: NDArray[np.float64],
    sizes: NDArray[np.float64],
    has: Callable[[int, int, int], bool],
    nothing: Callable[[], Exception],
) -> Placed:
    """Chooses the shards of the next samples of a stream.

    Args:
        before: Progress of the stream before these samples.
        points: A number in [0, 1) for each sample, ``[n]``. The shards that have not ended partition the interval in
            proportion to their sizes, and the sample is read from the shard whose part contains its number.
        sizes: Declared sizes of the shards, in any unit, ``[S]``.
        has: Whether a pass over a shard reaches a position: ``has(shard, epoch, position)``.
        nothing: Makes the error that is raised if a pass yields no samples.
    """
    epoch, counts, ended = before.epoch, before.counts.copy(), before.ended.copy()
    sizes = np.maximum(sizes, max(float(sizes.max()), 1.0) * _LEAST)
    shards, offsets = np.empty(len(points), dtype=np.int64), np.empty(len(points), dtype=np.int64)
    done = empty = 0
    while done < len(points):
        if ended.all():
            epoch, empty = epoch + 1, empty + 1
            # the first pass may be the empty rest of the previous one
            if empty == 2:
                raise nothing()
            ended[:] = False
        bounds = np.where(ended, 0.0, sizes).cumsum()
        chosen = np.searchsorted(bounds, points[done:] * bounds[-1], side="right")
        # rounding can put a point past the last shard
        chosen = np.minimum(chosen, np.flatnonzero(~ended)[-1])
        stop = len(chosen)
        for shard in np.unique(chosen).tolist():
            slots = np.flatnonzero(chosen == shard)
            found = _found(has, shard, epoch, int(counts[shard]), len(slots))
            offsets[done + slots[:found]] = counts[shard] + np.arange(found)
            if found < len(slots) and slots[found] < stop:
                stop, last = int(slots[found]), shard
        if stop < len(chosen):
            ended[last] = True
        shards[done : done + stop] = chosen[:stop]
        counts += np.bincount(chosen[:stop], minlength=len(counts))
        done, empty = done + stop, 0 if stop else empty
    return Placed(shards, offsets, Progress(epoch, counts, ended))


def _found(has: Callable[[int, int, int], bool], shard: int, epoch: int, position: int, number: int) -> int:
    """How many of the next ``number`` samples of a shard exist in this pass."""
    if has(shard, epoch, position + number - 1):
        return number
    return next(found for found in range(number) if not has(shard, epoch, position + found))
