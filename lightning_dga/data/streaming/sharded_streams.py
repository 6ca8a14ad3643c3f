"""The streams among the domains, sharded over the ranks of a run.

A stream that can be split (``num_shards`` and ``shard(num_shards, index)``, as Hugging Face's) is split into a fixed
number of shards. The shard of a sample depends on the sample's slot in the batch over all ranks and on which shards
have ended (:mod:`~lightning_dga.data.streaming.passes`); a slot stays with neighbouring shards, so that each rank
mostly reads shards of its own, and the ranks together read a stream about once. Nothing depends on the world size, so a
run can resume with more or fewer ranks. A stream that cannot be split is one shard, which every rank reads.

All ranks have to know whether a shard ends before a given sample. They exchange how far they have read; where that is
not far enough, a rank reads the shard itself.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from lightning_dga.data.errors import DataError
from lightning_dga.data.sampling.composition import Draw
from lightning_dga.data.sources import Sources
from lightning_dga.data.streaming.passes import Progress, place
from lightning_dga.data.streaming.random_numbers import StreamRandomNumbers, training_numbers_kept
from lightning_dga.data.streaming.reading import Readings, differing_streams
from lightning_dga.data.streaming.streams import StreamReader, no_samples
from lightning_dga.distributed import gather_objects, is_distributed

# number of draw boundaries whose progress is kept: those of the current and the previous draw, since a signal may
# interrupt a hand-over
_REMEMBERED = 3
# batches between two exchanges of reading progress
_EXCHANGE_EVERY = 16
# exchanges of reading progress per exchange of the readers' states, which are larger
_STATES_EVERY = 4
# a shard is read ahead until the next exchange by its draws since the last one times this factor, plus a margin for
# the random variation of draws
_MARGIN, _MORE = 1.5, 4
# fractional step (golden ratio) by which successive batches cover a slot's part of the interval evenly
_GOLDEN = (5**0.5 - 1) / 2

_Key = tuple[int, int]
_Progress = dict[int, Progress]


class ShardedStreams:
    """Reads the samples of streams for one rank.

    Args:
        sources: All domains.
        batch: Batch size over all ranks.
        most_shards: Maximum number of shards per stream.
        threads: Number of threads that read ahead; with 0, samples are read when they are needed.
        state: Result of :meth:`state_dict` in an earlier run.
        random_seed: Seed of the random numbers that streams draw from the global generators.

    Raises:
        ValueError: If the state is of a stream that had more shards than it has now.
        DataError: If a stream cannot be read by several readers.
    """

    def __init__(
        self,
        sources: Sources,
        batch: int,
        most_shards: int,
        threads: int = 0,
        state: dict[str, Any] | None = None,
        random_seed: int = 0,
    ) -> None:
        self._sources = sources
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._readers: dict[_Key, StreamReader] = {}
        self._ahead: dict[_Key, Future[None]] = {}
        self._drawn: deque[tuple[Draw, _Progress]] = deque()
        self._readings = Readings()
        self._used: set[_Key] = set()
        self._exchanges = 0
        domains = np.flatnonzero(sources.sizes == 0).tolist()
        self._random_numbers = {domain: StreamRandomNumbers(random_seed, domain) for domain in domains}
        self._saved: dict[_Key, dict[str, Any]] = {}
        if state is None:
            shards = {domain: _shards(sources.shards(domain), batch, most_shards) for domain in domains}
            position, progress = 0, {domain: Progress.start(number) for domain, number in shards.items()}
        else:
            self._saved = {_key(name): saved for name, saved in state["readers"].items()}
            position = int(state["position"])
            # a domain that is not in the state starts from its beginning
            progress = {
                domain: self._loaded(domain, state)
                or Progress.start(_shards(sources.shards(domain), batch, most_shards))
                for domain in domains
            }
        self._at: dict[int, _Progress] = {position: progress}
        self._at_exchange = progress
        self._exchanged_at = position
        self._sizes = {domain: sources.shard_sizes(domain, len(one.counts)) for domain, one in progress.items()}
        for domain in domains:
            # a stream that cannot be read raises here, at the start
            self._reader((domain, 0))

    def __bool__(self) -> bool:
        return len(self._sizes) > 0

    def samples(self, draw: Draw, own: slice, is_pending: Callable[[Draw], bool]) -> dict[int, Any]:
        """The samples of streams in a rank's slice of the newest draw, by position in that slice.

        Args:
            draw: The draw.
            own: The rank's slice.
            is_pending: Whether a draw that was passed to this method before has not been recalled.

        Raises:
            DataError: If a stream fails, or a whole pass over it yields nothing.
        """
        while self._drawn and not is_pending(self._drawn[-1][0]):
            self._drawn.pop()
        before = self._drawn[-1][1] if self._drawn else self._at[max(self._at)]
        found: dict[int, Any] = {}
        last: dict[_Key, list[int]] = {}
        with training_numbers_kept(self._random_numbers.values()):
            after, places = self._placed(draw, before)
            self._drawn.append((draw, after))
            for slot in range(own.start, own.stop):
                if slot in places:
                    key, offset = places[slot]
                    found[slot - own.start] = self._waited(key).get(offset)
                    last.setdefault(key, []).append(offset)
        self._used |= last.keys()
        if self._threads:
            for key, offsets in last.items():
                if self._random_numbers[key[0]].may_draw:
                    continue
                # read ahead as many samples as this draw took
                ahead = offsets[-1] + len(offsets)
                self._ahead[key] = self._executor().submit(self._readers[key].read_ahead, ahead)
        return found

    def deliver(self, draw: Draw) -> None:
        """Must be called when a draw is handed to training: earlier samples will not be requested again."""
        before = self._at[draw.start]
        _, after = self._drawn.popleft()
        recent = [*self._at.items(), (draw.stop, after)][-_REMEMBERED:]
        self._at = dict(recent)
        for (domain, shard), reader in self._readers.items():
            ahead = self._ahead.get((domain, shard))
            # a reader that is busy in a thread is released at a later call
            if ahead is None or ahead.done():
                reader.release(int(before[domain].counts[shard]))

    def pass_over(self, draw: Draw) -> None:
        """Must be called when a draw is handed to training whose samples were read before."""
        self._at = dict([*self._at.items(), (draw.stop, self._at[max(self._at)])][-_REMEMBERED:])

    def exchange(self, draw: Draw) -> None:
        """Shares, at regular intervals, the reading progress of shards and the readers' states with all ranks.

        Args:
            draw: The draw that was handed over last; all ranks must call it with the same draw.

        Raises:
            DataError: If ranks read different samples at the same position of a stream. All ranks raise it.
        """
        is_due = self._exchanges == 0 or draw.start // len(draw.domains) % _EXCHANGE_EVERY == 0
        if not (is_due and is_distributed()):
            return
        if self._exchanges == 0:
            self._compare()
        with training_numbers_kept(self._random_numbers.values()):
            self._read_on((self._newest_position() - self._exchanged_at) // len(draw.domains))
        self._exchanged_at = self._newest_position()
        states = self._own_states() if self._exchanges % _STATES_EVERY == 0 else {}
        own = {key: self._readers[key].progress for key in self._used}
        for progress, others in gather_objects((own, states)):
            self._readings.add(progress)
            self._saved |= others
        self._drop_idle_readers()
        self._exchanges += 1

    def state_dict(self, position: int) -> dict[str, Any]:
        """The state that the streams' samples from a position on depend on, as far as this rank knows it.

        Args:
            position: Start or end of the draw that training holds.
        """
        states = {**self._saved, **self._own_states()}
        return {
            "position": position,
            "progress": {str(domain): progress.state_dict() for domain, progress in self._at[position].items()},
            "readers": {f"{domain}/{shard}": state for (domain, shard), state in states.items()},
        }

    def close(self) -> None:
        """Drops draws that were not handed over, and ends the threads."""
        self._drawn.clear()
        for key in list(self._ahead):
            self._wait(key)
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _loaded(self, domain: int, state: dict[str, Any]) -> Progress | None:
        name = str(domain)
        if name not in state.get("progress", state.get("counts", {})):
            return None
        if "progress" in state:
            progress = Progress.from_state_dict(state["progress"][name])
        else:
            # in older checkpoints each shard restarted on its own; shards that are ahead wait for the others
            counts = state["counts"][name].numpy().copy()
            epochs = [saved["epoch"] for (of, _), saved in self._saved.items() if of == domain]
            progress = Progress(min(epochs, default=0), counts, np.zeros(len(counts), dtype=np.bool_))
        if len(progress.counts) > max(self._sources.shards(domain), 1):
            raise ValueError(
                f"The checkpoint read stream {self._sources.names[domain]!r} in {len(progress.counts)} shards, it has "
                f"{self._sources.shards(domain)} now; give the data that the run was started with."
            )
        return progress

    def _placed(self, draw: Draw, before: _Progress) -> tuple[_Progress, dict[int, tuple[_Key, int]]]:
        """Progress of the streams after a draw, and shard and offset for each slot that holds a sample of a stream."""
        after: _Progress = dict(before)
        places: dict[int, tuple[_Key, int]] = {}
        size = len(draw.domains)
        # the point moves evenly within each slot's part of the interval, so that small shards are reached too
        within = (draw.start // size * _GOLDEN) % 1.0
        for domain in set(draw.domains.tolist()) & before.keys():
            slots = np.flatnonzero(draw.domains == domain)
            placed = place(
                before[domain],
                (slots + within) / size,
                self._sizes[domain],
                partial(self._has, domain),
                partial(no_samples, self._sources.names[domain]),
            )
            after[domain] = placed.after
            for slot, shard, offset in zip(
                slots.tolist(), placed.shards.tolist(), placed.offsets.tolist(), strict=True
            ):
                places[slot] = (domain, shard), offset
        return after, places

    def _has(self, domain: int, shard: int, epoch: int, position: int) -> bool:
        key = domain, shard
        known = self._readings.has(key, epoch, position)
        return self._waited(key).has(epoch, position) if known is None else known

    def _waited(self, key: _Key) -> StreamReader:
        """The reader of a shard, after waiting for a thread that uses it."""
        self._wait(key)
        return self._reader(key)

    def _reader(self, key: _Key) -> StreamReader:
        reader = self._readers.get(key)
        if reader is None:
            reader = self._readers[key] = self._new_reader(key)
            reader.release(self._first(key))
        return reader

    def _new_reader(self, key: _Key) -> StreamReader:
        domain, shard = key
        state = self._saved.get(key)
        state = state if state and state["read"] <= self._first(key) else None
        reader = self._sources.stream(domain, shard, len(self._at[min(self._at)][domain].counts), state)
        assert reader is not None
        reader.draw_from(self._random_numbers[domain], shard)
        return reader

    def _newest_position(self) -> int:
        return self._drawn[-1][0].stop if self._drawn else max(self._at)

    def _first(self, key: _Key) -> int:
        """The first position of a shard that can still be requested."""
        domain, shard = key
        return int(self._at[min(self._at)][domain].counts[shard])

    def _wait(self, key: _Key) -> None:
        ahead = self._ahead.pop(key, None)
        if ahead is not None:
            ahead.result()

    def _read_on(self, batches: int) -> None:
        """Reads this rank's shards as far as they will probably be needed before the next exchange.

        Args:
            batches: Batches since the last exchange.
        """
        newest = self._drawn[-1][1] if self._drawn else self._at[max(self._at)]
        expected = {
            domain: (progress.counts - self._at_exchange[domain].counts).sum() * _EXCHANGE_EVERY / batches
            for domain, progress in newest.items()
        }
        for domain, shard in self._used:
            share = self._sizes[domain][shard] / self._sizes[domain].sum()
            ahead = int(_MARGIN * expected[domain] * share) + _MORE
            self._waited((domain, shard)).read_ahead(int(newest[domain].counts[shard]) + ahead)
        self._at_exchange = newest

    def _drop_idle_readers(self) -> None:
        """Closes readers of shards that only other ranks use, if they can be resumed from a state."""
        for key in self._readers.keys() - self._used:
            saved = self._saved.get(key)
            if self._readers[key].resumes and saved is not None and saved["read"] <= self._first(key):
                self._wait(key)
                del self._readers[key]
        self._used = set()

    def _compare(self) -> None:
        own = {key: reader.first for key, reader in self._readers.items()}
        domains = differing_streams(own, self._new_reader)
        if domains:
            raise _split_by_rank(self._sources.names[domains[0]])

    def _own_states(self) -> dict[_Key, dict[str, Any]]:
        states = {key: reader.state_dict() for key, reader in list(self._readers.items())}
        return {key: state for key, state in states.items() if state is not None}

    def _executor(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="stream")
        return self._pool


def _shards(available: int, batch: int, most: int) -> int:
    """The largest number of shards that divides a batch evenly, so that as many ranks can share them evenly."""
    limit = max(min(available, most, batch), 1)
    return next(number for number in range(limit, 0, -1) if batch % number == 0)


def _key(name: str) -> _Key:
    domain, shard = name.split("/")
    return int(domain), int(shard)


def _split_by_rank(domain: str) -> DataError:
    return DataError(
        f"Domain {domain!r}: ranks read different samples at the same position of this stream, as if it were already "
        "split or shuffled by rank. Give every rank the whole stream, in the same order: MixtureDataModule shards it "
        "over the ranks itself, and what is split twice is never read in full."
    )
