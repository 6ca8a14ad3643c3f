"""The streams among the domains, shared by the processes of a run.

A stream that can be split (``num_shards`` and ``shard(num_shards, index)``, as Hugging Face's) is split once and for
all into shards, each for some slots of every batch: shard s of S serves the samples whose place in the batch over all
processes lies in the s-th of S equal parts. A process reads the shards of its own slots, so that together they read a
stream once; and as nothing depends on how many processes there are, a run continues with more or fewer. A stream that
cannot be split is one shard, which every process reads.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_dga.data.composition import Draw
from lightning_dga.data.sources import Sources
from lightning_dga.data.streams import StreamReader
from lightning_dga.distributed import gather_objects, is_distributed

# a draw and the one before it can be asked for; a signal may come between two steps of handing one over
_REMEMBERED = 3

_Counts = dict[int, NDArray[np.int64]]


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
    """

    def __init__(
        self, sources: Sources, batch: int, most_shards: int, threads: int = 0, state: dict[str, Any] | None = None
    ) -> None:
        self._sources = sources
        self._batch = batch
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._readers: dict[tuple[int, int], StreamReader] = {}
        self._ahead: dict[tuple[int, int], Future[None]] = {}
        self._drawn: deque[tuple[Draw, _Counts]] = deque()
        domains = np.flatnonzero(sources.sizes == 0).tolist()
        if state is None:
            shards = {domain: _shards(sources.shards(domain), batch, most_shards) for domain in domains}
            self._saved: dict[tuple[int, int], dict[str, Any]] = {}
            position, counts = 0, {domain: np.zeros(number, dtype=np.int64) for domain, number in shards.items()}
        else:
            counts = {
                # a domain that the state does not know begins now
                domain: state["counts"][str(domain)].numpy().copy()
                if str(domain) in state["counts"]
                else np.zeros(_shards(sources.shards(domain), batch, most_shards), dtype=np.int64)
                for domain in domains
            }
            for domain in domains:
                if len(counts[domain]) > max(sources.shards(domain), 1):
                    raise ValueError(
                        f"The checkpoint read stream {sources.names[domain]!r} in {len(counts[domain])} shards, it has "
                        f"{sources.shards(domain)} now; give the data of the run that is resumed."
                    )
            self._saved = {_key(name): saved for name, saved in state["readers"].items()}
            position = int(state["position"])
        self._at: dict[int, _Counts] = {position: counts}

    def __bool__(self) -> bool:
        return len(next(iter(self._at.values()))) > 0

    def samples(self, draw: Draw, own: slice, is_pending: Callable[[Draw], bool]) -> dict[int, Any]:
        """The samples of streams among a process's part of the newest draw, by place in that part.

        Args:
            draw: The draw.
            own: The process's part.
            is_pending: Tells of a draw that was given here before whether it has not been taken back.
        """
        while self._drawn and not is_pending(self._drawn[-1][0]):
            self._drawn.pop()
        before = self._drawn[-1][1] if self._drawn else self._at[max(self._at)]
        after, places = self._placed(draw, before)
        self._drawn.append((draw, after))
        found: dict[int, Any] = {}
        last: dict[tuple[int, int], list[int]] = {}
        for slot in range(own.start, own.stop):
            if slot in places:
                domain, shard, offset = places[slot]
                found[slot - own.start] = self._get(domain, shard, offset)
                last.setdefault((domain, shard), []).append(offset)
        if self._threads:
            for key, offsets in last.items():
                # as many again as this draw took
                self._ahead[key] = self._executor().submit(self._readers[key].read_to, offsets[-1] + len(offsets))
        return found

    def hand_over(self, draw: Draw) -> None:
        """Says that a draw is being given to training: what precedes it will not be asked for again."""
        before = self._at[draw.start]
        _, after = self._drawn.popleft()
        recent = [*self._at.items(), (draw.stop, after)][-_REMEMBERED:]
        self._at = dict(recent)
        for (domain, shard), reader in self._readers.items():
            ahead = self._ahead.get((domain, shard))
            # one that is reading will be told another time
            if ahead is None or ahead.done():
                reader.release(int(before[domain][shard]))

    def exchange(self) -> None:
        """Makes every process know the state of every reader; all processes must call it."""
        if is_distributed():
            for states in gather_objects(self._own_states()):
                self._saved |= states

    def state_dict(self, position: int) -> dict[str, Any]:
        """What the streams' samples from a position on depend on, as far as this process knows.

        Args:
            position: Where the draw that training holds begins or ends.
        """
        return {
            "position": position,
            "counts": {str(domain): torch.from_numpy(counts.copy()) for domain, counts in self._at[position].items()},
            "readers": {
                f"{domain}/{shard}": state for (domain, shard), state in {**self._saved, **self._own_states()}.items()
            },
        }

    def close(self) -> None:
        """Forgets what was drawn and not handed over, and ends the threads."""
        self._drawn.clear()
        for domain, shard in list(self._ahead):
            self._wait(domain, shard)
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _placed(self, draw: Draw, before: _Counts) -> tuple[_Counts, dict[int, tuple[int, int, int]]]:
        """Counts behind a draw; and domain, shard and offset within it of each slot that holds a stream's sample."""
        after, places = dict(before), {}
        for domain in before:
            slots = np.flatnonzero(draw.domains == domain)
            if len(slots):
                counts = before[domain].copy()
                for slot, shard in zip(
                    slots.tolist(), (slots * len(counts) // len(draw.domains)).tolist(), strict=True
                ):
                    places[slot] = domain, shard, int(counts[shard])
                    counts[shard] += 1
                after[domain] = counts
        return after, places

    def _get(self, domain: int, shard: int, offset: int) -> Any:
        self._wait(domain, shard)
        reader = self._readers.get((domain, shard))
        if reader is None:
            counts = self._at[min(self._at)]
            shards, first = len(counts[domain]), int(counts[domain][shard])
            state = self._saved.get((domain, shard))
            reader = self._sources.stream(domain, shard, shards, state if state and state["read"] <= first else None)
            assert reader is not None
            reader.release(first)
            self._readers[domain, shard] = reader
        return reader.get(offset)

    def _wait(self, domain: int, shard: int) -> None:
        ahead = self._ahead.pop((domain, shard), None)
        if ahead is not None:
            # the reader keeps a failure, for when the sample is needed
            ahead.exception()

    def _own_states(self) -> dict[tuple[int, int], dict[str, Any]]:
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


def _key(name: str) -> tuple[int, int]:
    domain, shard = name.split("/")
    return int(domain), int(shard)
