"""Which domain each sample of the stream comes from: a pure function of seed, sample index and weight history.

The stream is one endless sequence of samples, numbered from 0 over all processes. Sample ``n`` compares the n-th number
of a counter-based generator (Philox, Salmon et al., SC 2011) with the weights that are in force at ``n``; within its
domain it takes the next position. Nothing else enters, so every process computes the same sequence, and a run resumes
anywhere with any number of processes or workers.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Draw:
    """Consecutive samples of the stream, drawn together: one batch over all processes.

    Attributes:
        start: Index of the first sample in the stream.
        version: Version of the weights that the first sample was drawn under.
        domains: Domain of each sample, ``[n]`` int64.
        positions: How many samples of its domain precede each sample in the stream, ``[n]`` int64.
    """

    start: int
    version: int
    domains: NDArray[np.int64]
    positions: NDArray[np.int64]

    @property
    def stop(self) -> int:
        """Index of the first sample behind this draw."""
        return self.start + len(self.domains)


@dataclass(frozen=True)
class _Segment:
    """Weights, and the sample index at which they take effect."""

    start: int
    version: int
    weights: NDArray[np.float64]
    cumulative: NDArray[np.float64] = field(repr=False)

    @classmethod
    def of(cls, start: int, version: int, weights: NDArray[np.float64]) -> "_Segment":
        return cls(start, version, weights, np.cumsum(weights))


class Composition:
    """Draws the stream ahead of its use, and takes back what new weights make stale.

    A draw is *pending* from :meth:`draw` until the one after it is handed to training (:meth:`hand_over`). New weights
    take effect ``lag`` samples behind the last sample that was handed over, whatever was drawn by then: pending draws
    from there on are recalled, and drawn again under the new weights. The sequence therefore never depends on how far
    workers ran ahead.

    Args:
        weights: Weights at the start, ``[k]`` float64 on the simplex.
        seed: Selects the sequence.
        lag: How many samples late new weights take effect. 0: with the next sample that is handed over.
    """

    def __init__(self, weights: Tensor, seed: int = 0, lag: int = 0) -> None:
        self.seed = seed
        self.lag = lag
        self._segments = [_Segment.of(0, 0, weights.numpy().copy())]
        self._counts = np.zeros(len(weights), dtype=np.int64)
        self._drawn = 0
        self._handed: Draw | None = None
        self._pending: deque[Draw] = deque()

    @property
    def weights(self) -> Tensor:
        """The newest weights, ``[k]`` float64, a copy."""
        return torch.from_numpy(self._segments[-1].weights.copy())

    @property
    def version(self) -> int:
        """How often the weights have been set."""
        return self._segments[-1].version

    @property
    def handed(self) -> Draw | None:
        """The draw that training holds, if any."""
        return self._handed

    @property
    def position(self) -> int:
        """How many samples have been handed to training, over all processes."""
        return (
            self._handed.stop if self._handed is not None else self._drawn - sum(len(d.domains) for d in self._pending)
        )

    def set_weights(self, weights: Tensor) -> None:
        """Puts new weights (``[k]`` float64 on the simplex) in force, ``lag`` samples from now. Costs O(k)."""
        # nothing was trained on before the first sample, so there is no run to be steady for
        effective = self.position + (self.lag if self.position else 0)
        while self._pending and self._pending[-1].stop > effective:
            self._take_back(self._pending.pop())
        kept = [segment for segment in self._segments if segment.start < effective]
        self._segments = [*kept, _Segment.of(effective, self.version + 1, weights.numpy().copy())]

    def draw(self, size: int) -> Draw:
        """Draws the next ``size`` samples of the stream. Costs O(size log k)."""
        domains = self._domains(self._drawn, size)
        order = np.argsort(domains, kind="stable")
        ordered = domains[order]
        first = np.searchsorted(ordered, ordered, side="left")
        positions = np.empty(size, dtype=np.int64)
        positions[order] = self._counts[ordered] + np.arange(size) - first
        np.add.at(self._counts, domains, 1)
        draw = Draw(self._drawn, self._segment_at(self._drawn).version, domains, positions)
        self._drawn += size
        self._pending.append(draw)
        return draw

    def is_pending(self, draw: Draw) -> bool:
        """Whether a draw waits to be handed over; one that was recalled does not."""
        return any(draw is pending for pending in self._pending)

    def hand_over(self, draw: Draw) -> None:
        """Marks the oldest pending draw as given to training."""
        if not self._pending or self._pending[0] is not draw:
            raise RuntimeError(
                "Only the oldest pending draw can be handed over; this one was recalled or came out of order."
            )
        self._handed = self._pending.popleft()
        self._forget_segments_before(self._handed.start)

    def recall_pending(self) -> None:
        """Takes back every pending draw; the next :meth:`draw` repeats the first of them."""
        while self._pending:
            self._take_back(self._pending.pop())

    def counts(self, *, completed: bool = True) -> Tensor:
        """Samples of each domain that were handed to training, over all processes, ``[k]`` int64.

        Args:
            completed: Whether the draw that training holds counts too.
        """
        counts = self._counts.copy()
        uncounted = [*self._pending] + ([self._handed] if self._handed is not None and not completed else [])
        for draw in uncounted:
            np.subtract.at(counts, draw.domains, 1)
        return torch.from_numpy(counts)

    def state_dict(self, *, completed: bool = True) -> dict[str, Any]:
        """What the rest of the stream depends on; O(k), however long the run.

        Args:
            completed: Whether training is done with the draw that it holds. If not, a resumed run begins with that
                draw.
        """
        again = self._handed if self._handed is not None and not completed else None
        position = again.start if again else self.position
        needed = [
            s
            for i, s in enumerate(self._segments)
            if i + 1 == len(self._segments) or self._segments[i + 1].start > position
        ]
        return {
            "seed": self.seed,
            "position": position,
            "counts": self.counts(completed=completed),
            "segments": [
                {"start": s.start, "version": s.version, "weights": torch.from_numpy(s.weights.copy())} for s in needed
            ],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where :meth:`state_dict` was taken; drops whatever was drawn since.

        Raises:
            ValueError: If the state is of another number of domains.
        """
        if len(state["counts"]) != len(self._counts):
            raise ValueError(f"The state has {len(state['counts'])} domains, this mixture has {len(self._counts)}.")
        self.seed = int(state["seed"])
        self._drawn = int(state["position"])
        self._counts = state["counts"].numpy().astype(np.int64, copy=True)
        self._segments = [
            _Segment.of(int(s["start"]), int(s["version"]), s["weights"].numpy().astype(np.float64, copy=True))
            for s in state["segments"]
        ]
        self._handed = None
        self._pending.clear()

    def _domains(self, start: int, size: int) -> NDArray[np.int64]:
        uniform = _uniform(self.seed, start, size)
        domains = np.empty(size, dtype=np.int64)
        begin = 0
        while begin < size:
            index = max(i for i, s in enumerate(self._segments) if s.start <= start + begin)
            end = size
            if index + 1 < len(self._segments):
                end = min(end, self._segments[index + 1].start - start)
            cumulative = self._segments[index].cumulative
            # u * total can round up to the total, which lies behind the last domain that has a weight
            scaled = np.minimum(uniform[begin:end] * cumulative[-1], np.nextafter(cumulative[-1], 0))
            domains[begin:end] = np.searchsorted(cumulative, scaled, side="right")
            begin = end
        return domains

    def _segment_at(self, sample: int) -> _Segment:
        return max((s for s in self._segments if s.start <= sample), key=lambda s: s.start)

    def _take_back(self, draw: Draw) -> None:
        np.subtract.at(self._counts, draw.domains, 1)
        self._drawn -= len(draw.domains)

    def _forget_segments_before(self, sample: int) -> None:
        while len(self._segments) > 1 and self._segments[1].start <= sample:
            self._segments.pop(0)


def _uniform(seed: int, start: int, size: int) -> NDArray[np.float64]:
    """Numbers ``start`` to ``start + size`` of a seeded sequence in [0, 1), found without making the ones before."""
    generator = np.random.Philox(key=seed & 0xFFFFFFFFFFFFFFFF)
    per_counter = 4  # one Philox counter yields four 64-bit words
    generator.advance(start // per_counter)
    skip = start % per_counter
    words = np.asarray(generator.random_raw(size + skip), dtype=np.uint64)[skip:]
    return (words >> np.uint64(11)) * 2.0**-53
