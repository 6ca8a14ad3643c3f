"""Quota sampling: the mixture that is realised tracks the weights within one sample of every domain.

Sample m of a domain of weight w is due in a window: not before the domain's ideal share ``n * w`` exceeds ``m``, and
not after it reaches ``m + 1``. Where windows are kept, every domain is within one sample of its ideal at every prefix
of the stream. One slot at a time, the sample whose window is open and ends first is taken, which keeps all of them
(Tijdeman, Discrete Mathematics 1980; Baruah et al., Algorithmica 1996). Giving each slot to the largest deficit does
not: it can fall behind by more than one.

What a domain is owed is carried over when the weights change, at most one sample of it. Under weights that are not
known beforehand no method can keep every domain within one sample: new weights may favour all those that are owed.
"""

from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from lightning_dga.data.sampling.permutation import keys
from lightning_dga.data.sampling.segment import WeightsSegment

_SHORTEST, _LONGEST = 256, 16_384
# a first plan is that long that the pass over all domains does not outweigh the slots it gives
_DOMAINS_PER_SLOT = 16


class Quota:
    """Fills the stream's slots by earliest deadline.

    Slots are planned ahead, the further the longer the weights stay, for planning starts with a pass over all k
    domains. A plan is used from any slot that it covers, so cutting the stream otherwise changes nothing.

    Args:
        seed: Selects who goes first among domains whose windows end together.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._ties: NDArray[np.uint64] | None = None
        self._segment: WeightsSegment | None = None
        self._start = 0
        self._plan = np.empty(0, dtype=np.int64)

    def enter(self, segment: WeightsSegment, before: WeightsSegment | None, counts: NDArray[np.int64]) -> None:
        """See :class:`~lightning_dga.data.sampling.samplings.Sampling`.

        Carries over what each domain is owed. Costs O(k).
        """
        if before is None or before.ideal is None:
            segment.ideal = counts.astype(np.float64)
            return
        due = before.ideal + (segment.start - before.start) * before.weights
        segment.ideal = np.clip(due, counts - 1, counts + 1)

    def domains(self, segment: WeightsSegment, start: int, size: int, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """See :class:`~lightning_dga.data.sampling.samplings.Sampling`.

        Costs O(size log size), and O(k) for each plan.
        """
        parts: list[NDArray[np.int64]] = []
        while size:
            if not self._covers(segment, start):
                if parts:
                    counts = counts + np.bincount(parts[-1], minlength=len(counts))
                self._make_plan(segment, start, size, counts)
            parts.append(self._plan[start - self._start :][:size])
            start, size = start + len(parts[-1]), size - len(parts[-1])
        return np.concatenate(parts)

    def _covers(self, segment: WeightsSegment, start: int) -> bool:
        return segment is self._segment and self._start <= start < self._start + len(self._plan)

    def _make_plan(self, segment: WeightsSegment, start: int, size: int, counts: NDArray[np.int64]) -> None:
        assert segment.ideal is not None
        length = 2 * len(self._plan) if segment is self._segment else max(_SHORTEST, len(counts) // _DOMAINS_PER_SLOT)
        length = max(min(length, _LONGEST), size)
        if self._ties is None:
            self._ties = keys(self._seed, np.arange(len(counts)))
        slot = start - segment.start
        windows = _windows(segment.weights, segment.ideal, counts, self._ties, slot, length)
        order = np.lexsort((self._ties[windows.domains], windows.last))
        self._plan = windows.domains[order][_earliest_deadline_first(windows.first[order], slot, length)]
        self._segment, self._start = segment, start


@dataclass(frozen=True)
class _Windows:
    """Samples that are due: the domain of each, and the first and last slot that it may be given."""

    domains: NDArray[np.int64]
    first: NDArray[np.float64]
    last: NDArray[np.float64]


def _windows(
    weights: NDArray[np.float64],
    ideal: NDArray[np.float64],
    counts: NDArray[np.int64],
    ties: NDArray[np.uint64],
    slot: int,
    size: int,
) -> _Windows:
    """The windows that may have their turn in slots ``slot`` to ``slot + size``, at least ``size`` of them."""
    end = slot + size
    while True:
        chosen = _contenders(weights, counts - ideal, ties, slot, size, end)
        many = np.ceil(end * weights[chosen] - (counts[chosen] - ideal[chosen])).clip(0, size).astype(np.int64)
        # where a debt was not carried over, slots are left for which no window is open yet
        if many.sum() >= size:
            break
        end += size
    domains = np.repeat(chosen, many)
    number = np.arange(len(domains)) - np.repeat(np.cumsum(many) - many, many)
    # integers first: the sum must not depend on how many of the samples were drawn before
    due = (counts[domains] + number) - ideal[domains]
    with np.errstate(over="ignore"):  # a weight near the smallest number: its window never ends
        first = np.maximum(np.floor(due / weights[domains]), slot)
        return _Windows(domains, first, np.ceil((due + 1) / weights[domains]) - 1)


def _contenders(
    weights: NDArray[np.float64], lead: NDArray[np.float64], ties: NDArray[np.uint64], slot: int, size: int, end: int
) -> NDArray[np.int64]:
    """Domains with a window that opens before ``end``, without those that cannot have their turn: most, if k is large.

    Of the windows that are open at ``slot``, only the ``size`` that end first can.
    """
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        first = np.floor(lead / weights)
    first[weights == 0] = np.inf
    is_open = first <= slot
    if np.count_nonzero(is_open) <= 2 * size:
        return np.flatnonzero(first < end)
    open_now = np.flatnonzero(is_open)
    with np.errstate(over="ignore"):
        last = np.ceil((lead[open_now] + 1) / weights[open_now]) - 1
    bound = np.partition(last, size - 1)[size - 1]
    sooner, tied = open_now[last < bound], open_now[last == bound]
    wanted = size - len(sooner)
    tied = tied[np.argpartition(ties[tied], wanted - 1)[:wanted]]
    return np.sort(np.concatenate([sooner, tied, np.flatnonzero(~is_open & (first < end))]))


def _earliest_deadline_first(first: NDArray[np.float64], slot: int, size: int) -> NDArray[np.int64]:
    """Which sample each slot is given, as an index into samples that are sorted by the end of their windows."""
    order = np.argsort(first, kind="stable")
    opens, waiting = first[order].tolist(), order.tolist()
    begin = int(np.searchsorted(opens, slot, side="right"))
    # those that are open from the start stay a sorted list, so that only what opens on the way goes through a heap
    ready = sorted(waiting[:begin])
    fresh: list[int] = []
    taken: list[int] = []
    next_ready = 0
    for now in range(slot, slot + size):
        while begin < len(opens) and opens[begin] <= now:
            heappush(fresh, waiting[begin])
            begin += 1
        if fresh and (next_ready == len(ready) or fresh[0] < ready[next_ready]):
            taken.append(heappop(fresh))
        elif next_ready < len(ready):
            taken.append(ready[next_ready])
            next_ready += 1
        else:
            taken.append(waiting[begin])
            begin += 1
    return np.array(taken, dtype=np.int64)
