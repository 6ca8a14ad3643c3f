"""From which of its shards each sample of a stream comes: every one is read to its end before any is read again.

Within a pass the shards are read in proportion to what they are said to hold, so that they end at about the same time;
what is said may be wrong. One that has ended is left out until all have. So before a sample comes a second time all
have come once, whatever the shards hold, and one without samples is passed over.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

# the part of the largest shard that one is taken for of which nothing is known, or which is said to be empty
_LEAST = 1e-6


@dataclass(frozen=True, eq=False)
class Progress:
    """How far a stream has been drawn.

    Attributes:
        epoch: Number of the pass.
        counts: Samples drawn of each shard in all passes, ``[S]`` int64.
        ended: Shards that this pass was found to have reached the end of, ``[S]`` bool.
    """

    epoch: int
    counts: NDArray[np.int64]
    ended: NDArray[np.bool_]

    @classmethod
    def start(cls, shards: int) -> "Progress":
        """Nothing drawn."""
        return cls(0, np.zeros(shards, dtype=np.int64), np.zeros(shards, dtype=np.bool_))

    def state_dict(self) -> dict[str, Any]:
        """Its fields, as a checkpoint holds them."""
        counts, ended = torch.from_numpy(self.counts.copy()), torch.from_numpy(self.ended.copy())
        return {"epoch": self.epoch, "counts": counts, "ended": ended}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "Progress":
        """What :meth:`state_dict` was taken of."""
        return cls(int(state["epoch"]), state["counts"].numpy().copy(), state["ended"].numpy().copy())


@dataclass(frozen=True, eq=False)
class Placed:
    """Where samples of a stream come from.

    Attributes:
        shards: Shard of each, ``[n]`` int64.
        offsets: How many samples of its shard precede each in all passes, ``[n]`` int64.
        after: How far the stream has been drawn with them.
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
        before: How far the stream has been drawn.
        points: Where each sample falls on a line of length 1, ``[n]``. The shards that have not ended lie on it side by
            side, as long as they are large.
        sizes: What each shard is said to hold, in any unit, ``[S]``.
        has: Tells of a shard whether a pass of it reaches a position: ``has(shard, epoch, position)``.
        nothing: Makes the error to raise if a pass gives no samples.
    """
    epoch, counts, ended = before.epoch, before.counts.copy(), before.ended.copy()
    sizes = np.maximum(sizes, max(float(sizes.max()), 1.0) * _LEAST)
    shards, offsets = np.empty(len(points), dtype=np.int64), np.empty(len(points), dtype=np.int64)
    done = empty = 0
    while done < len(points):
        if ended.all():
            epoch, empty = epoch + 1, empty + 1
            # the first may be the rest of the pass before
            if empty == 2:
                raise nothing()
            ended[:] = False
        bounds = np.where(ended, 0.0, sizes).cumsum()
        chosen = np.searchsorted(bounds, points[done:] * bounds[-1], side="right")
        # what rounding puts behind the last
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
    """How many of the next samples of a shard there are."""
    if has(shard, epoch, position + number - 1):
        return number
    return next(found for found in range(number) if not has(shard, epoch, position + found))
