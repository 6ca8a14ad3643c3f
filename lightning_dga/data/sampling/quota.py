"""Quota sampling: the realised mixture tracks the weights to within one sample of every domain.

Sample m of a domain of weight w has a window: it is released when the domain's ideal count ``n * w`` exceeds ``m``, and
its deadline is when the ideal count reaches ``m + 1``. If all deadlines are met, every domain is within one sample of
its ideal count at every prefix of the stream. Giving each slot to the released sample with the earliest deadline meets
all of them (Tijdeman, Discrete Mathematics 1980; Baruah et al., Algorithmica 1996). Giving each slot to the domain with
the largest deficit does not: a domain can fall behind by more than one sample.

When the weights change, each domain's deficit is carried over, at most one sample of it. With weights that are not
known in advance, no method can keep every domain within one sample: new weights may favour all domains with a deficit.
"""

from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from lightning_dga.data.sampling.permutation import keys
from lightning_dga.data.sampling.segment import WeightsSegment

_SHORTEST, _LONGEST = 256, 16_384
# the first plan is long enough that the pass over all domains does not dominate its cost
_DOMAINS_PER_SLOT = 16


class Quota:
    """Fills the stream's slots by earliest deadline first.

    Slots are planned ahead, in longer plans the longer the weights stay the same, because each plan starts with a pass
    over all k domains. A plan can be used from any slot that it covers, so the result does not depend on how the stream
    is divided into draws.

    Args:
        seed: Seed of the order among domains with equal deadlines.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._ties: NDArray[np.uint64] | None = None
        self._segment: WeightsSegment | None = None
        self._start = 0
        self._plan = np.empty(0, dtype=np.int64)

    def enter(self, segment: WeightsSegment, before: WeightsSegment | None, counts: NDArray[np.int64]) -> None:
        """See :class:`~lightning_dga.data.sampling.samplings.Sampling`.

        Carries over each domain's deficit. Costs O(k).
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
    """Samples to schedule: the domain of each, and the first and last slot of its window."""

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
    """The windows that may be scheduled in slots ``slot`` to ``slot + size``, at least ``size`` of them."""
    end = slot + size
    while True:
        chosen = _contenders(weights, counts - ideal, ties, slot, size, end)
        many = np.ceil(end * weights[chosen] - (counts[chosen] - ideal[chosen])).clip(0, size).astype(np.int64)
        # if a deficit was not fully carried over, some slots have no released sample yet
        if many.sum() >= size:
            break
        end += size
    domains = np.repeat(chosen, many)
    number = np.arange(len(domains)) - np.repeat(np.cumsum(many) - many, many)
    # integers are added first: the rounding must not depend on how many of the samples were drawn before
    due = (counts[domains] + number) - ideal[domains]
    with np.errstate(over="ignore"):  # with a weight near the smallest float the deadline is infinite
        first = np.maximum(np.floor(due / weights[domains]), slot)
        return _Windows(domains, first, np.ceil((due + 1) / weights[domains]) - 1)


def _contenders(
    weights: NDArray[np.float64], lead: NDArray[np.float64], ties: NDArray[np.uint64], slot: int, size: int, end: int
) -> NDArray[np.int64]:
    """Domains with a window that opens before ``end`` and that can be scheduled at all; few of them if k is large.

    Of the windows that are open at ``slot``, only the ``size`` with the earliest deadlines can be.
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
    """The sample scheduled in each slot, as an index into samples sorted by deadline."""
    order = np.argsort(first, kind="stable")
    opens, waiting = first[order].tolist(), order.tolist()
    begin = int(np.searchsorted(opens, slot, side="right"))
    # windows open from the start stay in sorted order; only those that open later go through a heap
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
