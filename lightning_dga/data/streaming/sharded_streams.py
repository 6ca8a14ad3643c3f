"""The streams among the domains, shared by the processes of a run.

A stream that can be split (``num_shards`` and ``shard(num_shards, index)``, as Hugging Face's) is split once and for
all into shards. Which of them serves a sample follows from the sample's place in the batch over all processes and from
which shards have ended (:mod:`~lightning_dga.data.streaming.passes`); a place keeps to neighbouring shards, so that
each process mostly reads shards of its own, and together they read a stream about once. Nothing depends on how many
processes there are, so a run continues with more or fewer. A stream that cannot be split is one shard, which every
process reads.

Whether a shard has ended by a sample has to be known to all processes. They tell one another how far they have read;
where that does not reach, a process reads the shard itself.
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
from lightning_dga.data.streaming.reading import Readings, differing_streams
from lightning_dga.data.streaming.streams import StreamReader, no_samples
from lightning_dga.distributed import gather_objects, is_distributed

# a draw and the one before it can be asked for; a signal may come between two steps of handing one over
_REMEMBERED = 3
# batches between two exchanges of how far shards were read
_EXCHANGE_EVERY = 16
# exchanges between two of the readers' states too, which are larger
_STATES_EVERY = 4
# how far a shard is read on for the time until the next exchange: by its share of what was drawn since the last, times
# this, and some more, for draws scatter
_MARGIN, _MORE = 1.5, 4
# steps of this share of a slot fill it evenly
_GOLDEN = (5**0.5 - 1) / 2

_Key = tuple[int, int]
_Progress = dict[int, Progress]


class ShardedStreams:
    """Reads the samples of streams for one process.

    Args:
        sources: All domains.
        batch: Samples of a batch over all processes.
        most_shards: Into how many shards a stream is split at most.
        threads: How many threads read ahead; 0 reads when a sample is needed.
        state: What :meth:`state_dict` gave in an earlier run.

    Raises:
        ValueError: If the state is of a stream that had more shards than it has now.
        DataError: If a stream cannot be read by several readers.
    """

    def __init__(
        self, sources: Sources, batch: int, most_shards: int, threads: int = 0, state: dict[str, Any] | None = None
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
        self._saved: dict[_Key, dict[str, Any]] = {}
        if state is None:
            shards = {domain: _shards(sources.shards(domain), batch, most_shards) for domain in domains}
            position, progress = 0, {domain: Progress.start(number) for domain, number in shards.items()}
        else:
            self._saved = {_key(name): saved for name, saved in state["readers"].items()}
            position = int(state["position"])
            # a domain that the state does not know begins now
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
            # what cannot be read is told at the start
            self._reader((domain, 0))

    def __bool__(self) -> bool:
        return len(self._sizes) > 0

    def samples(self, draw: Draw, own: slice, is_pending: Callable[[Draw], bool]) -> dict[int, Any]:
        """The samples of streams among a process's part of the newest draw, by place in that part.

        Args:
            draw: The draw.
            own: The process's part.
            is_pending: Tells of a draw that was given here before whether it has not been taken back.

        Raises:
            DataError: If a stream fails, or a whole pass over it gives nothing.
        """
        while self._drawn and not is_pending(self._drawn[-1][0]):
            self._drawn.pop()
        before = self._drawn[-1][1] if self._drawn else self._at[max(self._at)]
        after, places = self._placed(draw, before)
        self._drawn.append((draw, after))
        found: dict[int, Any] = {}
        last: dict[_Key, list[int]] = {}
        for slot in range(own.start, own.stop):
            if slot in places:
                key, offset = places[slot]
                found[slot - own.start] = self._waited(key).get(offset)
                last.setdefault(key, []).append(offset)
        self._used |= last.keys()
        if self._threads:
            for key, offsets in last.items():
                # as many again as this draw took
                ahead = offsets[-1] + len(offsets)
                self._ahead[key] = self._executor().submit(self._readers[key].read_ahead, ahead)
        return found

    def deliver(self, draw: Draw) -> None:
        """Says that a draw is being given to training: what precedes it will not be asked for again."""
        before = self._at[draw.start]
        _, after = self._drawn.popleft()
        recent = [*self._at.items(), (draw.stop, after)][-_REMEMBERED:]
        self._at = dict(recent)
        for (domain, shard), reader in self._readers.items():
            ahead = self._ahead.get((domain, shard))
            # one that is reading will be told another time
            if ahead is None or ahead.done():
                reader.release(int(before[domain].counts[shard]))

    def pass_over(self, draw: Draw) -> None:
        """Says that a draw is being given to training whose samples were read before."""
        self._at = dict([*self._at.items(), (draw.stop, self._at[max(self._at)])][-_REMEMBERED:])

    def exchange(self, draw: Draw) -> None:
        """Makes every process know, now and then, how far each shard was read, and the readers' states.

        Args:
            draw: The one that was handed over last; all processes must call it with the same.

        Raises:
            DataError: If processes read different samples at the same place of a stream. All raise it.
        """
        is_due = self._exchanges == 0 or draw.start // len(draw.domains) % _EXCHANGE_EVERY == 0
        if not (is_due and is_distributed()):
            return
        if self._exchanges == 0:
            self._compare()
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
        """What the streams' samples from a position on depend on, as far as this process knows.

        Args:
            position: Where the draw that training holds begins or ends.
        """
        states = {**self._saved, **self._own_states()}
        return {
            "position": position,
            "progress": {str(domain): progress.state_dict() for domain, progress in self._at[position].items()},
            "readers": {f"{domain}/{shard}": state for (domain, shard), state in states.items()},
        }

    def close(self) -> None:
        """Forgets what was drawn and not handed over, and ends the threads."""
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
            # in older checkpoints each shard began anew by itself; those that are ahead wait for the others
            counts = state["counts"][name].numpy().copy()
            epochs = [saved["epoch"] for (of, _), saved in self._saved.items() if of == domain]
            progress = Progress(min(epochs, default=0), counts, np.zeros(len(counts), dtype=np.bool_))
        if len(progress.counts) > max(self._sources.shards(domain), 1):
            raise ValueError(
                f"The checkpoint read stream {self._sources.names[domain]!r} in {len(progress.counts)} shards, it has "
                f"{self._sources.shards(domain)} now; give the data of the run that is resumed."
            )
        return progress

    def _placed(self, draw: Draw, before: _Progress) -> tuple[_Progress, dict[int, tuple[_Key, int]]]:
        """How far streams are drawn behind a draw; shard and offset within it of each slot that holds their sample."""
        after: _Progress = dict(before)
        places: dict[int, tuple[_Key, int]] = {}
        size = len(draw.domains)
        # moves within each slot's part of the line from batch to batch, evenly, so that small shards have their turn
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
        """The reader of a shard, when no thread reads it."""
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
        return reader

    def _newest_position(self) -> int:
        return self._drawn[-1][0].stop if self._drawn else max(self._at)

    def _first(self, key: _Key) -> int:
        """The first position of a shard that can still be asked for."""
        domain, shard = key
        return int(self._at[min(self._at)][domain].counts[shard])

    def _wait(self, key: _Key) -> None:
        ahead = self._ahead.pop(key, None)
        if ahead is not None:
            ahead.result()

    def _read_on(self, batches: int) -> None:
        """Reads this process's shards as far as they will probably be needed before the next exchange.

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
        """Gives up shards that only others read, if they can be read on from a state."""
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
    """The largest number of shards that divides a batch evenly, for then as many processes share them evenly."""
    limit = max(min(available, most, batch), 1)
    return next(number for number in range(limit, 0, -1) if batch % number == 0)


def _key(name: str) -> _Key:
    domain, shard = name.split("/")
    return int(domain), int(shard)


def _split_by_rank(domain: str) -> DataError:
    return DataError(
        f"Domain {domain!r}: the processes read different samples at the same place of this stream, as if it were "
        "split by rank or shuffled by rank already. Give each process the whole stream, in the same order: "
        "MixtureDataModule shares it among the processes itself, and what is split twice is never read in full."
    )
