"""The training loader: sends the composition's draws to workers and returns their collated batches.

The composition stays in the main process; a worker gets (domain, index) pairs and returns a collated batch. Batches
recalled because of new weights are dropped when they arrive, and workers skip those that they have not read yet. Where
the weights were set at equal intervals, batches that the next change would recall are not sent to workers before it.
"""

from collections import deque
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from lightning_dga.data.loading.batches import BatchReader
from lightning_dga.data.loading.worker_message import MessageSender
from lightning_dga.data.loading.workers import WorkerLoader
from lightning_dga.data.sampling.composition import Composition, Draw
from lightning_dga.data.sources import ShuffledOrder, Sources
from lightning_dga.data.streaming.sharded_streams import ShardedStreams

# a range of recalled tickets is shared with the workers as one integer, first * _MOST_IN_FLIGHT + count, so that it is
# written atomically
_MOST_IN_FLIGHT = 1 << 20
# small batches are composed together, up to these numbers of samples and batches, to save time
_COMPOSED_SAMPLES, _COMPOSED_BATCHES = 4096, 32


@dataclass(frozen=True)
class BatchInfo:
    """The origin of the samples in a rank's batch.

    Attributes:
        domains: Domain of each sample of this rank's batch, ``[batch_size]`` int64.
        version: Version of the weights that the batch was drawn under.
        start: Index in the stream of the first sample of the batch over all ranks.
    """

    domains: NDArray[np.int64]
    version: int
    start: int


@dataclass(frozen=True)
class _Work:
    """What a worker needs for one batch, including samples of streams, which only the main process reads."""

    ticket: int
    domains: NDArray[np.int64]
    indices: NDArray[np.int64]
    positions: NDArray[np.int64]
    first: int
    streamed: dict[int, Any]


class _Reader(Dataset):
    """Reads and collates one batch; runs in the workers."""

    def __init__(self, reader: BatchReader, recalled: torch.Tensor) -> None:
        self._reader = reader
        self._recalled = recalled

    def __getitem__(self, work: _Work | int) -> tuple[int, Any]:
        if isinstance(work, int):
            return work, None
        first, count = divmod(int(self._recalled), _MOST_IN_FLIGHT)
        if first <= work.ticket < first + count:
            return work.ticket, None
        return work.ticket, self._reader.read(work.domains, work.indices, work.positions, work.first, work.streamed)


class MixtureLoader:
    """Yields this rank's batches of the weighted stream without end, in epochs of a fixed number of batches.

    It has a length, so Lightning prefetches no batch and the composition knows which samples were trained on. Workers
    start with the first batch and stay alive across epochs until :meth:`close`.

    Args:
        composition: Chooses the domain of each sample; shared with the data module, which sets the weights.
        sources: The samples.
        batch_size: Samples per batch and rank.
        batches_per_epoch: Length of an epoch in batches.
        collate_fn: Turns a list of samples into the batch that ``training_step`` receives.
        rank: The rank, which selects its slice of each draw.
        world_size: The number of ranks that share a draw.
        seed: Seed of the order within the domains.
        random_seed: Seed of the random numbers that data sets and ``collate_fn`` draw; ``seed`` if not given.
        stream_shards: Maximum number of shards into which a stream is split, if it can be split.
        stream_state: Result of :meth:`stream_state` in an earlier run.
        before_batch: Called before each batch is handed over.
        repeats: Number of first batches to repeat in every epoch, as Lightning's ``overfit_batches`` asks; they are
            kept in memory. ``None`` repeats none.
        **workers: ``num_workers``, ``prefetch_factor``, ``pin_memory``, ``timeout``, ``multiprocessing_context`` and
            ``worker_init_fn`` of :class:`torch.utils.data.DataLoader`.
    """

    def __init__(
        self,
        composition: Composition,
        sources: Sources,
        *,
        batch_size: int,
        batches_per_epoch: int,
        collate_fn: Callable[[list[Any]], Any],
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        random_seed: int | None = None,
        stream_shards: int = 16,
        stream_state: dict[str, Any] | None = None,
        before_batch: Callable[[], None] | None = None,
        repeats: int | None = None,
        **workers: Any,
    ) -> None:
        self.batch_size = batch_size
        self.current: BatchInfo | None = None
        self._before_batch = before_batch
        self._repeats = repeats
        self._kept: list[tuple[Draw, Any]] = []
        self._next_kept = 0
        self._composition = composition
        self._batches_per_epoch = batches_per_epoch
        self._rank = rank
        self._world_size = world_size
        self._order = ShuffledOrder(sources.sizes, seed, ids=composition.ids)
        self._sources = sources
        self._stream_shards = stream_shards
        self._threads = workers.get("num_workers", 0)
        self._random_seed = seed if random_seed is None else random_seed
        self._streams = self._open_streams(stream_state)
        self._recalled = torch.zeros((), dtype=torch.int64).share_memory_()
        self._composed: deque[tuple[Draw, NDArray[np.int64]]] = deque()
        self._tickets = 0
        # `None` is nothing to read: the batch is drawn only when the weights have changed
        self._in_flight: dict[int, Draw | None] = {}
        self._changed_at = composition.position
        self._interval = 0
        self._next_change = 0
        self._loader = WorkerLoader(
            _Reader(BatchReader(sources, collate_fn, self._random_seed), self._recalled),
            batch_size=None,
            sampler=_Endless(self._next_work),
            collate_fn=MessageSender(workers.get("prefetch_factor") or 2) if workers.get("num_workers") else _as_it_is,
            # a generator of its own: otherwise the workers' base seed would be drawn from the user's global RNG
            generator=torch.Generator().manual_seed(seed),
            **workers,
        )
        self._batches: Iterator[tuple[int, Any]] | None = None

    def __len__(self) -> int:
        return self._batches_per_epoch

    def __iter__(self) -> Iterator[Any]:
        self._next_kept = 0
        for _ in range(self._batches_per_epoch):
            yield self._next_batch()

    def state_dict(self) -> dict[str, int]:
        """Tells Lightning that the loader can resume in mid-epoch. The state itself is kept by the data module."""
        return {"position": self._composition.position}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Does nothing: the data module restores the composition before Lightning requests a loader."""

    def recall(self) -> None:
        """Tells the workers which queued batches the composition has recalled; call it after the weights change."""
        stale = list(takewhile(lambda ticket: not self._stands(self._in_flight[ticket]), reversed(self._in_flight)))
        if stale:
            self._recalled.fill_(stale[-1] * _MOST_IN_FLIGHT + len(stale))
        position = self._composition.position
        before, self._interval = self._interval, position - self._changed_at
        self._changed_at = position
        self._next_change = position + before if before == self._interval else 0

    def close(self) -> None:
        """Stops the workers; batches that they had prefetched are read again when the loader is used next."""
        self._batches = None
        self._in_flight.clear()
        self._composed.clear()
        self._composition.recall_pending()
        self._streams.close()

    def restart(self, stream_state: dict[str, Any] | None = None) -> None:
        """Continues from the present state of the composition, after that was restored.

        Args:
            stream_state: Result of :meth:`stream_state` saved together with that state.
        """
        self.close()
        self._streams = self._open_streams(stream_state)

    def stream_state(self, position: int) -> dict[str, Any]:
        """The state that the samples of streams from a position on depend on."""
        return self._streams.state_dict(position) if self._streams else {}

    def _next_batch(self) -> Any:
        if self._before_batch is not None:
            self._before_batch()
        if self._repeats is not None and len(self._kept) == self._repeats:
            return self._kept_batch()
        if self._batches is None:
            self._batches = iter(self._loader)
        while True:
            try:
                ticket, batch = next(self._batches)
            except (ConnectionError, EOFError, FileNotFoundError) as error:
                if "Caught" in str(error):
                    # re-raised by torch from a worker that is still alive: an error of the user's own code
                    raise
                # a case without a clear error in torch: the worker died after preparing a batch, before sending it
                raise RuntimeError("A worker process of the training loader exited unexpectedly.") from error
            draw = self._in_flight.pop(ticket)
            if draw is not None and self._composition.is_pending(draw):
                break
        if self._streams:
            # before the composition, so that the stream state before and after this draw is available at any moment
            self._streams.deliver(draw)
        self._composition.deliver(draw)
        self.current = BatchInfo(draw.domains[self._own()], draw.version, draw.start)
        if self._streams:
            self._streams.exchange(draw)
        if self._repeats is not None:
            self._kept.append((draw, deepcopy(batch)))
            if len(self._kept) == self._repeats:
                self.close()
        return batch

    def _kept_batch(self) -> Any:
        draw, batch = self._kept[self._next_kept]
        self._next_kept = (self._next_kept + 1) % len(self._kept)
        again = self._composition.draw_again(draw)
        if self._streams:
            self._streams.pass_over(again)
        self._composition.deliver(again)
        self.current = BatchInfo(again.domains[self._own()], again.version, again.start)
        # a copy, because training may modify the batch in place
        return deepcopy(batch)

    def _stands(self, draw: Draw | None) -> bool:
        return draw is not None and self._composition.is_pending(draw)

    def _next_work(self) -> _Work | int:
        while self._composed and not self._stands(self._composed[0][0]):
            self._composed.popleft()
        ticket = self._tickets
        self._tickets += 1
        if not self._composed and not self._compose():
            self._in_flight[ticket] = None
            return ticket
        draw, indices = self._composed.popleft()
        own = self._own()
        streamed: dict[int, Any] = {}
        if self._streams:
            streamed = self._streams.samples(draw, own, self._composition.is_pending)
        self._in_flight[ticket] = draw
        first = draw.start + own.start
        return _Work(ticket, draw.domains[own], indices, draw.positions[own], first, streamed)

    def _compose(self) -> bool:
        """Draws some batches, none of them under weights that are about to change; false if there is none to draw."""
        batch = self.batch_size * self._world_size
        number = min(max(_COMPOSED_SAMPLES // batch, 1), _COMPOSED_BATCHES)
        if self._composition.position < self._next_change:
            number = min(number, (self._next_change + self._composition.lag - self._composition.drawn) // batch)
        if number <= 0:
            return False
        draws = self._composition.draw_several(batch, number)
        own = self._own()
        domains = np.concatenate([draw.domains[own] for draw in draws])
        positions = np.concatenate([draw.positions[own] for draw in draws])
        indices = self._order.indices(domains, positions)
        self._composed.extend(zip(draws, np.split(indices, len(draws)), strict=True))
        return True

    def _open_streams(self, state: dict[str, Any] | None) -> ShardedStreams:
        batch = self.batch_size * self._world_size
        return ShardedStreams(
            self._sources, batch, self._stream_shards, self._threads, state or None, self._random_seed
        )

    def _own(self) -> slice:
        return slice(self._rank * self.batch_size, (self._rank + 1) * self.batch_size)


class _Endless:
    """The sampler of the inner loader; runs in the main process, ahead by the length of the workers' queues."""

    def __init__(self, next_work: Callable[[], _Work | int]) -> None:
        self._next_work = next_work

    def __iter__(self) -> Iterator[_Work | int]:
        while True:
            yield self._next_work()


def _as_it_is(item: Any) -> Any:
    return item
