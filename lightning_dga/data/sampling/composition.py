"""The domain of each sample of the stream: a pure function of seed, sample index and weight history.

The stream is one infinite sequence of samples, numbered from 0 over all ranks. The domain of sample ``n`` depends on
``n``, the seed and the weights in force (and, under quota sampling, on the number of samples drawn from each domain);
within its domain it takes the next position. It depends on nothing else, so every rank computes the same sequence, and
a run can resume with any number of ranks or workers.
"""

from collections import deque
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_dga.data.sampling.blocks import BlockSampling
from lightning_dga.data.sampling.samplings import Sampling, make_sampling
from lightning_dga.data.sampling.segment import WeightsSegment


@dataclass(frozen=True, eq=False)
class Draw:
    """Consecutive samples of the stream, drawn together: one batch over all ranks.

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
        """Index of the first sample after this draw."""
        return self.start + len(self.domains)


class Composition:
    """Draws the stream ahead of its use, and recalls pending draws when the weights change.

    A draw is *pending* from :meth:`draw` until it is handed to training (:meth:`deliver`). New weights take effect
    ``lag`` samples after the last sample that was handed over, independent of how much was drawn by then: later pending
    draws are recalled and drawn again under the new weights. The sequence therefore does not depend on how far the
    workers prefetch.

    A signal handler may read the state between any two statements of a method; they are ordered so that this is safe.

    Args:
        weights: Initial weights, ``[k]`` float64 on the simplex.
        seed: Seed of the sequence.
        lag: Number of samples after which new weights take effect. 0: with the next sample that is handed over.
        sampling: ``"multinomial"``, independent draws, or ``"quota"``, which tracks the weights within one sample.
        run_length: Number of consecutive samples that share a domain.

    Raises:
        ValueError: If the sampling is unknown, or ``"quota"`` is combined with a run length above 1.
    """

    def __init__(
        self, weights: Tensor, seed: int = 0, lag: int = 0, sampling: str = "multinomial", run_length: int = 1
    ) -> None:
        self.seed = seed
        self.lag = lag
        self.sampling = sampling
        self._run_length = run_length
        self._sampling = self._make_sampling()
        self._segments = [WeightsSegment(0, 0, 0, weights.numpy().copy())]
        self._counts = np.zeros(len(weights), dtype=np.int64)
        self._ids = np.arange(len(weights))
        self._next_id = len(weights)
        self._begin = 0
        # samples before `_begin` that were drawn from domains since removed
        self._elsewhere = 0
        self._handed: Draw | None = None
        self._pending: deque[Draw] = deque()

    @property
    def weights(self) -> Tensor:
        """The newest weights, ``[k]`` float64, a copy."""
        return torch.from_numpy(self._segments[-1].weights.copy())

    @property
    def version(self) -> int:
        """Number of times that the weights have been set."""
        return self._segments[-1].version

    @property
    def ids(self) -> NDArray[np.int64]:
        """The id that selects each domain's order, ``[k]``; unchanged when other domains are added or removed."""
        return self._ids

    @property
    def run_length(self) -> int:
        """Number of consecutive samples that share a domain."""
        return self._run_length

    @run_length.setter
    def run_length(self, length: int) -> None:
        if length != self._run_length and self.position:
            raise ValueError(
                f"The stream was begun in runs of {self._run_length} samples of one domain and cannot go on in runs of "
                f"{length}; give the same `pure_batches` and `batch_size`."
            )
        self.recall_pending()
        self._run_length = length
        self._sampling = self._make_sampling()

    @property
    def handed(self) -> Draw | None:
        """The draw that training holds, if any."""
        return self._handed

    @property
    def position(self) -> int:
        """Number of samples handed to training, over all ranks."""
        return self._handed.stop if self._handed is not None else self._begin

    @property
    def drawn(self) -> int:
        """Index of the next sample to draw."""
        return self._pending[-1].stop if self._pending else self.position

    @property
    def stale_samples(self) -> int:
        """Samples handed to training under older weights since the newest weights were set; at most ``lag``."""
        newest = self._segments[-1]
        return min(self.position, newest.start) - newest.set_at

    def set_weights(self, weights: Tensor) -> None:
        """Puts new weights (``[k]`` float64 on the simplex) in force, ``lag`` samples from now. Costs O(k)."""
        position = self.position
        # before the first sample is handed to training (step 0), the lag does not apply
        effective = position + (self.lag if position else 0)
        while self._pending and self._pending[-1].stop > effective:
            self._take_back()
        kept = [segment for segment in self._segments if segment.start < effective]
        segment = WeightsSegment(effective, position, self.version + 1, weights.numpy().copy())
        replaced = self._segments[len(kept) : len(kept) + 1]
        if replaced and replaced[0].start == effective:
            # replaces a segment that has no samples, and inherits its carried-over ideal counts
            segment.ideal = replaced[0].ideal
        self._segments = [*kept, segment]

    def draw(self, size: int) -> Draw:
        """Draws the next ``size`` samples of the stream. Costs O(size log k)."""
        return self.draw_several(size, 1)[0]

    def draw_several(self, size: int, number: int) -> list[Draw]:
        """Draws ``number`` draws of ``size`` samples each; faster than one draw at a time."""
        start = self.drawn
        domains, positions = self._compose(start, size * number)
        draws = []
        for begin in range(0, size * number, size):
            part = slice(begin, begin + size)
            version = self._segments[self._segment_index(start + begin)].version
            draws.append(Draw(start + begin, version, domains[part], positions[part]))
        for draw in draws:
            self._pending.append(draw)
            np.add.at(self._counts, draw.domains, 1)
        return draws

    def draw_again(self, draw: Draw) -> Draw:
        """Repeats the samples of an earlier draw regardless of the weights; nothing may be pending."""
        again = Draw(self.drawn, self.version, draw.domains, draw.positions)
        self._pending.append(again)
        np.add.at(self._counts, again.domains, 1)
        return again

    def is_pending(self, draw: Draw) -> bool:
        """Whether a draw is still waiting to be handed over, and was not recalled."""
        return any(draw is pending for pending in self._pending)

    def deliver(self, draw: Draw) -> None:
        """Marks the oldest pending draw as handed to training."""
        if not self._pending or self._pending[0] is not draw:
            raise RuntimeError(
                "Only the oldest pending draw can be handed over; this one was recalled or came out of order."
            )
        self._handed = draw
        self._pending.popleft()
        self._forget_segments_before(self._handed.start)

    def recall_pending(self) -> None:
        """Recalls every pending draw; the next :meth:`draw` starts at the first of them again."""
        while self._pending:
            self._take_back()

    def counts(self, *, completed: bool = True) -> Tensor:
        """Samples of each domain that were handed to training, over all ranks, ``[k]`` int64.

        Args:
            completed: Whether the draw that training holds is counted.
        """
        counts = self._counts.copy()
        counted = self._elsewhere + int(counts.sum())
        ahead = [draw for draw in self._pending if draw is not self._handed and draw.stop <= counted]
        for draw in ahead if completed or self._handed is None else [*ahead, self._handed]:
            np.subtract.at(counts, draw.domains, 1)
        return torch.from_numpy(counts)

    def state_dict(self, *, completed: bool = True) -> dict[str, Any]:
        """The state that the rest of the stream depends on; its size is O(k) for any length of the run.

        Args:
            completed: Whether training is done with the draw that it holds. If not, a resumed run starts with that
                draw.
        """
        again = self._handed if self._handed is not None and not completed else None
        position = again.start if again else self.position
        counts = self.counts(completed=completed)
        first = self._segment_index(position)
        self._enter(first, counts.numpy())
        return {
            "seed": self.seed,
            "sampling": self.sampling,
            "run_length": self._run_length,
            "position": position,
            "counts": counts,
            "segments": [segment.state_dict() for segment in self._segments[first:]],
            **self._renumbered(),
        }

    def _renumbered(self) -> dict[str, Any]:
        if self._next_id == len(self._ids):
            return {}
        return {"ids": torch.from_numpy(self._ids.copy()), "next_id": self._next_id}

    def load_state_dict(self, state: dict[str, Any], seed: int | None = None) -> None:
        """Continues from :meth:`state_dict`; drops everything drawn since.

        Args:
            state: The state.
            seed: Seed of the sequence from here on; that of the state if not given.

        Raises:
            ValueError: If the state has another number of domains, another sampling, or another run length.
        """
        if len(state["counts"]) != len(self._counts):
            raise ValueError(f"The state has {len(state['counts'])} domains, this mixture has {len(self._counts)}.")
        sampling = state.get("sampling", "multinomial")
        if sampling != self.sampling:
            raise ValueError(
                f"The state is of `sampling={sampling!r}`, this mixture has {self.sampling!r}; give the same."
            )
        run_length = state.get("run_length", 1)
        if run_length != self._run_length:
            raise ValueError(
                f"The state is of runs of {run_length} samples of one domain, this mixture has {self._run_length}; "
                "give the same `pure_batches` and `batch_size`."
            )
        self.seed = int(state["seed"]) if seed is None else seed
        self._sampling = self._make_sampling()
        self._ids = state["ids"].numpy().copy() if "ids" in state else np.arange(len(self._counts))
        self._next_id = int(state.get("next_id", len(self._ids)))
        self._begin = int(state["position"])
        self._counts = state["counts"].numpy().astype(np.int64, copy=True)
        self._elsewhere = self._begin - int(self._counts.sum())
        self._segments = [WeightsSegment.from_state_dict(segment) for segment in state["segments"]]
        self._handed = None
        self._pending.clear()

    def __getstate__(self) -> dict[str, Any]:
        """The state for a copy, which draws again what was drawn here and not handed over."""
        copy = self.__dict__ | {"_pending": deque(), "_counts": self.counts().numpy()}
        copy["_segments"] = [replace(segment) for segment in self._segments]
        for segment in copy["_segments"]:
            if segment.start >= self.position:
                # the segment was entered by a draw that the copy does not have
                segment.ideal = None
        return copy

    def _make_sampling(self) -> Sampling:
        sampling = make_sampling(self.sampling, self.seed)
        if self._run_length == 1:
            return sampling
        if self.sampling != "multinomial":
            raise ValueError(
                f"`pure_batches` draws one domain for a whole batch, which `sampling={self.sampling!r}` cannot; use "
                "'multinomial'."
            )
        return BlockSampling(sampling, self._run_length)

    def _compose(self, start: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Domain and position of the next samples."""
        domains = self._domains(start, size)
        order = np.argsort(domains, kind="stable")
        ordered = domains[order]
        first = np.searchsorted(ordered, ordered, side="left")
        positions = np.empty(size, dtype=np.int64)
        positions[order] = self._counts[ordered] + np.arange(size) - first
        return domains, positions

    def _domains(self, start: int, size: int) -> NDArray[np.int64]:
        parts: list[NDArray[np.int64]] = []
        counts, stop = self._counts, start + size
        while start < stop:
            if parts:
                counts = counts + np.bincount(parts[-1], minlength=len(counts))
            index = self._segment_index(start)
            self._enter(index, counts)
            end = min([stop, *(segment.start for segment in self._segments[index + 1 : index + 2])])
            parts.append(self._sampling.domains(self._segments[index], start, end - start, counts))
            start = end
        return np.concatenate(parts)

    def _segment_index(self, sample: int) -> int:
        return max(index for index, segment in enumerate(self._segments) if segment.start <= sample)

    def _enter(self, index: int, counts: NDArray[np.int64]) -> None:
        if self._segments[index].ideal is None:
            self._sampling.enter(self._segments[index], self._segments[index - 1] if index else None, counts)

    def _take_back(self) -> None:
        """Recalls the newest pending draw."""
        np.subtract.at(self._counts, self._pending[-1].domains, 1)
        self._pending.pop()
        for segment in self._segments[1:]:
            if segment.start >= self.drawn:
                segment.ideal = None

    def _forget_segments_before(self, sample: int) -> None:
        while len(self._segments) > 1 and self._segments[1].start <= sample:
            self._segments.pop(0)
