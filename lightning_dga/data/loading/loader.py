"""The training loader: carries the composition's draws to workers and hands back the user's own batches.

The composition stays in the main process; a worker gets (domain, index) pairs and returns a collated batch. What new
weights made stale is dropped when it arrives, and workers skip it where they have not read it yet.
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
from lightning_dga.data.loading.worker_message import WorkerMessage
from lightning_dga.data.loading.workers import WorkerLoader
from lightning_dga.data.sampling.composition import Composition, Draw
from lightning_dga.data.sources import ShuffledOrder, Sources
from lightning_dga.data.streaming.sharded_streams import ShardedStreams

# a run of recalled tickets is shared with the workers as one integer, first * _MOST_IN_FLIGHT + count, written
# atomically
_MOST_IN_FLIGHT = 1 << 20
# small batches are composed together, up to so many samples and batches, which takes less time than one by one
_COMPOSED_SAMPLES, _COMPOSED_BATCHES = 4096, 8


@dataclass(frozen=True)
class BatchInfo:
    """Where the samples of a process's batch came from.

    Attributes:
        domains: Domain of each sample of this process's batch, ``[batch_size]`` int64.
        version: Weights version that the batch was drawn under.
        start: Index in the stream of the first sample of the batch over all processes.
    """

    domains: NDArray[np.int64]
    version: int
    start: int


@dataclass(frozen=True)
class _Work:
    """What a worker needs for one batch; the samples of streams, which only the main process can read, travel along."""

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

    def __getitem__(self, work: _Work) -> tuple[int, Any]:
        first, count = divmod(int(self._recalled), _MOST_IN_FLIGHT)
        if first <= work.ticket < first + count:
            return work.ticket, None
        return work.ticket, self._reader.read(work.domains, work.indices, work.positions, work.first, work.streamed)


class MixtureLoader:
    """Yields this process's batches of the weighted stream, for ever, in epochs of a fixed number of batches.

    It has a length, so Lightning takes one batch at a time and the composition knows which samples were trained on.
    Workers start with the first batch and live until :meth:`close`, across epochs.

    Args:
        composition: Says which domain each sample comes from; shared with whoever sets the weights.
        sources: The samples.
        batch_size: Samples per batch and process.
        batches_per_epoch: Length of an epoch.
        collate_fn: Turns a list of samples into the batch that ``training_step`` sees.
        rank: Which slice of each draw is this process's.
        world_size: How many processes share a draw.
        seed: Selects the order within the domains.
        random_seed: Selects the random numbers that data sets and ``collate_fn`` draw; ``seed`` if not given.
        stream_shards: Into how many shards a stream is split at most, where it can be.
        stream_state: What :meth:`stream_state` gave in an earlier run.
        before_batch: Called before each batch is handed over.
        repeats: How many first batches to repeat in every epoch, as Lightning's ``overfit_batches`` asks; they are kept
            in memory. None, if not given.
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
        self._streams = self._open_streams(stream_state)
        self._recalled = torch.zeros((), dtype=torch.int64).share_memory_()
        self._composed: deque[tuple[Draw, NDArray[np.int64]]] = deque()
        self._tickets = 0
        self._in_flight: dict[int, Draw] = {}
        self._loader = WorkerLoader(
            _Reader(BatchReader(sources, collate_fn, seed if random_seed is None else random_seed), self._recalled),
            batch_size=None,
            sampler=_Endless(self._next_work),
            collate_fn=WorkerMessage if workers.get("num_workers") else _as_it_is,
            # its own generator: the default one would take a number from the user's RNG for the workers' seeds
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
        """Tells Lightning that the loader resumes in the middle of an epoch. The state itself is the data module's."""
        return {"position": self._composition.position}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Does nothing: the data module restores the composition, before Lightning asks for a loader."""

    def recall(self) -> None:
        """Tells the workers which queued work the composition has taken back; call it after the weights changed."""
        stale = list(
            takewhile(
                lambda ticket: not self._composition.is_pending(self._in_flight[ticket]), reversed(self._in_flight)
            )
        )
        if stale:
            self._recalled.fill_(stale[-1] * _MOST_IN_FLIGHT + len(stale))

    def close(self) -> None:
        """Stops the workers; what they had read ahead is read again when the loader is used next."""
        self._batches = None
        self._in_flight.clear()
        self._composed.clear()
        self._composition.recall_pending()
        self._streams.close()

    def restart(self, stream_state: dict[str, Any] | None = None) -> None:
        """Continues from wherever the composition's state has been set to.

        Args:
            stream_state: What :meth:`stream_state` gave together with that state.
        """
        self.close()
        self._streams = self._open_streams(stream_state)

    def stream_state(self, position: int) -> dict[str, Any]:
        """What the samples of streams from a position on depend on."""
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
                    # by torch in a worker, which lives: it is the user's own error
                    raise
                # what torch does not tell: the batch was ready, and its worker gone before it was handed over
                raise RuntimeError("A worker process of the training loader exited unexpectedly.") from error
            draw = self._in_flight.pop(ticket)
            if self._composition.is_pending(draw):
                break
        if self._streams:
            # first, so that the state of either side of this draw can be told at any moment
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
        # training may write into it
        return deepcopy(batch)

    def _next_work(self) -> _Work:
        while self._composed and not self._composition.is_pending(self._composed[0][0]):
            self._composed.popleft()
        if not self._composed:
            self._compose()
        draw, indices = self._composed.popleft()
        own = self._own()
        streamed: dict[int, Any] = {}
        if self._streams:
            streamed = self._streams.samples(draw, own, self._composition.is_pending)
        ticket = self._tickets
        self._tickets += 1
        self._in_flight[ticket] = draw
        first = draw.start + own.start
        return _Work(ticket, draw.domains[own], indices, draw.positions[own], first, streamed)

    def _compose(self) -> None:
        batch = self.batch_size * self._world_size
        number = min(max(_COMPOSED_SAMPLES // batch, 1), _COMPOSED_BATCHES)
        draws = self._composition.draw_several(batch, number)
        own = self._own()
        domains = np.concatenate([draw.domains[own] for draw in draws])
        positions = np.concatenate([draw.positions[own] for draw in draws])
        indices = self._order.indices(domains, positions)
        self._composed.extend(zip(draws, np.split(indices, len(draws)), strict=True))

    def _open_streams(self, state: dict[str, Any] | None) -> ShardedStreams:
        batch = self.batch_size * self._world_size
        return ShardedStreams(self._sources, batch, self._stream_shards, self._threads, state or None)

    def _own(self) -> slice:
        return slice(self._rank * self.batch_size, (self._rank + 1) * self.batch_size)


class _Endless:
    """The sampler of the inner loader; runs in the main process, as far ahead as the workers' queues are long."""

    def __init__(self, next_work: Callable[[], _Work]) -> None:
        self._next_work = next_work

    def __iter__(self) -> Iterator[_Work]:
        while True:
            yield self._next_work()


def _as_it_is(item: Any) -> Any:
    return item
