"""Quota sampling: the realised mixture tracks the weights to within one sample of every domain.

Sample m of a domain of weight w has a window: it is released when the domain's ideal count ``n * w`` exceeds ``m``, and
its deadline is when the ideal count reaches ``m + 1``. If every sample is drawn within its window, every domain is
within one sample of its ideal count at every prefix of the stream. Giving each slot to the released sample with the
earliest deadline does that (Tijdeman, Discrete Mathematics 1980; Baruah et al., Algorithmica 1996). Giving each slot to
the domain with the largest deficit does not: a domain can fall behind by more than one sample.

Slots are planned in blocks. A block holds the samples that earliest deadline first would draw in it. Those whose
deadline is in the block get the slots that it would give them; the others fill the remaining slots in order of release,
which needs no queue. Sets of samples that can be drawn in a block are independent sets of a matroid whose greedy basis,
by deadline, is that block (Lawler, Combinatorial Optimization, 1976, chapter 7).

When the weights change, each domain's deficit is carried over, at most one sample of it. With weights that are not
known in advance, no method can keep every domain within one sample: new weights may favour all domains with a deficit.
"""

import numpy as np
from numpy.typing import NDArray

from lightning_dga.data.sampling.permutation import keys
from lightning_dga.data.sampling.segment import WeightsSegment

# The first block after a change of weights is short, so that the change costs little; later ones are longer, because
# each needs a pass over all domains. Few domains have a deadline in a block that is short beside their number.
_SHORTEST, _LONGEST = 256, 4096
_DOMAINS_PER_SLOT_FIRST, _DOMAINS_PER_SLOT = 128, 4


class Quota:
    """Fills the stream's slots by earliest deadline first, block by block.

    Blocks end at fixed distances from the segment's start, and the rest of a block depends only on the counts, so the
    result does not depend on how the stream is divided into draws, and needs no state.

    Args:
        seed: Seed of the order among domains with equal deadlines.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._ties: NDArray[np.float64] | None = None
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

        Costs O(size log size), and O(k) for each block.
        """
        parts: list[NDArray[np.int64]] = []
        while size:
            if not self._covers(segment, start):
                if parts:
                    counts = counts + np.bincount(parts[-1], minlength=len(counts))
                self._make_plan(segment, start, counts)
            parts.append(self._plan[start - self._start :][:size])
            start, size = start + len(parts[-1]), size - len(parts[-1])
        return np.concatenate(parts)

    def _covers(self, segment: WeightsSegment, start: int) -> bool:
        return segment is self._segment and self._start <= start < self._start + len(self._plan)

    def _make_plan(self, segment: WeightsSegment, start: int, counts: NDArray[np.int64]) -> None:
        assert segment.ideal is not None
        if self._ties is None:
            self._ties = keys(self._seed, np.arange(len(counts))).astype(np.float64) * 2.0**-65
        slot = start - segment.start
        windows = _Windows(segment.weights, counts, segment.ideal, self._ties)
        self._plan = _planned(windows, slot, _block_end(slot, len(counts)))
        self._segment, self._start = segment, start


class _Windows:
    """The windows of all samples that were not drawn yet.

    Args:
        weights: Weight of each domain, ``[k]``.
        counts: Samples of each domain that were drawn, ``[k]``.
        ideal: Ideal count of each domain at slot 0, ``[k]``.
        ties: Order among samples with equal deadlines, ``[k]`` in [0, 1/2].
    """

    def __init__(
        self,
        weights: NDArray[np.float64],
        counts: NDArray[np.int64],
        ideal: NDArray[np.float64],
        ties: NDArray[np.float64],
    ) -> None:
        self._weights, self._counts, self._ideal, self._ties = weights, counts, ideal, ties
        self._lead = counts - ideal
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            self._release = np.where(weights > 0, self._lead / weights, np.inf)
            self._deadline = np.ceil((self._lead + 1) / weights) + ties

    def earliest(
        self, number: int, horizon: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], bool]:
        """Samples released before slot ``horizon``, by deadline: at least the first ``number``, or all.

        Returns:
            Domain, slot of release and slot after the deadline of each, and whether these are all samples.
        """
        chosen = np.flatnonzero(self._release < horizon)
        deadline = self._deadline[chosen]
        bound = np.partition(deadline, number - 1)[number - 1] if len(chosen) > number else np.inf
        chosen = chosen[deadline <= bound]
        many = np.floor(horizon * self._weights[chosen] - self._lead[chosen] + 1.5).clip(1, number).astype(np.int64)
        domains = np.repeat(chosen, many)
        further = np.arange(len(domains)) - np.repeat(np.cumsum(many) - many, many)
        # integers are added first: the rounding must not depend on how many of the samples were drawn before
        due = (self._counts[domains] + further) - self._ideal[domains]
        weights = self._weights[domains]
        with np.errstate(over="ignore"):  # with a weight near the smallest float the deadline is infinite
            release, deadline = np.floor(due / weights), np.ceil((due + 1) / weights) + self._ties[domains]
        kept = np.flatnonzero((release < horizon) & (deadline <= bound))
        kept = kept[np.argsort(deadline[kept], kind="stable")]
        return domains[kept], release[kept], deadline[kept], bound == np.inf


def _planned(windows: _Windows, slot: int, end: int) -> NDArray[np.int64]:
    """The domain of each slot from ``slot`` to ``end``, the end of a block."""
    size, horizon = end - slot, end
    number = size + size // 4
    while True:
        domains, release, deadline, are_all = windows.earliest(number, horizon)
        late = (release - slot).clip(0, size).astype(np.int64)
        if are_all:
            # if a deficit was not fully carried over, a slot without a released sample takes the next to be released
            by_release = np.argsort(release, kind="stable")
            late[by_release] = np.minimum(late[by_release], np.arange(len(late)))
        drawn = _greedy_basis(late, size)
        if len(drawn) == size:
            break
        number, horizon = (number, 2 * horizon - slot) if are_all else (2 * number, horizon)
    plan, is_free = np.empty(size, dtype=np.int64), np.ones(size, dtype=bool)
    is_urgent = deadline[drawn] < end
    urgent, others = drawn[is_urgent], drawn[~is_urgent]
    slots = _earliest_free(late[urgent], size)
    plan[slots] = domains[urgent]
    is_free[slots] = False
    plan[is_free] = domains[others[np.argsort(release[others], kind="stable")]]
    return plan


def _greedy_basis(late: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """The samples that earliest deadline first draws in ``size`` slots.

    Args:
        late: Slots until the release of each sample, in order of deadlines.
        size: Number of slots.

    Returns:
        Indices of the samples, in order; fewer than ``size`` if those given do not fill the slots.
    """
    room = np.arange(size, -1, -1)
    taken = min(size, len(late))
    while True:
        # more samples than slots from some slot on: that many of them have to wait for the next block
        later = np.bincount(late[:taken], minlength=size + 1)[::-1].cumsum()[::-1]
        waiting = np.maximum.accumulate((later - room)[::-1])
        missing = min(size - taken + int(waiting[-1].clip(0)), len(late) - taken)
        if missing <= 0:
            break
        taken += missing
    late = late[:taken].copy()
    for slot in (size - np.searchsorted(waiting, np.arange(1, waiting[-1] + 1))).tolist():
        late[np.flatnonzero(late >= slot)[-1]] = -1
    return np.flatnonzero(late >= 0)


def _earliest_free(late: NDArray[np.int64], size: int) -> list[int]:
    """The first free slot for each sample in turn, not before its release."""
    following, slots = list(range(size + 1)), []
    for release in late.tolist():
        slot = release
        while following[slot] != slot:
            following[slot] = slot = following[following[slot]]
        slots.append(slot)
        following[slot] = slot + 1
    return slots


def _block_end(slot: int, k: int) -> int:
    """End of the block that a slot is in: powers of two at first, then multiples of the longest block's length."""
    length, longest = max(_SHORTEST, k // _DOMAINS_PER_SLOT_FIRST), max(_LONGEST, k // _DOMAINS_PER_SLOT)
    while length < longest and length <= slot:
        length *= 2
    return (slot // length + 1) * length
