"""Reading an iterable data set (a domain without an index), addressed by position."""

from collections import deque
from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import Any

from torch.utils.data import IterableDataset

from lightning_dga.data.errors import DataError
from lightning_dga.data.streaming.digest import digest
from lightning_dga.data.streaming.random_numbers import StreamRandomNumbers
from lightning_dga.data.streaming.resumable import OwnState

# interval in samples at which a data set's own state is saved; a resumed run re-reads at most that many
_STATE_EVERY = 64
# number of first samples by which ranks check that they read the same stream
_COMPARED = 4


class StreamReader:
    """Returns samples of an iterable by position; restarts the iterable when it ends.

    Samples from the last :meth:`release` on are kept, so that recalled batches can be drawn again. A position far ahead
    is reached by reading up to it: from the last known state if the data set has a state of its own
    (:class:`~lightning_dga.data.streaming.resumable.OwnState`), else from the start.

    Args:
        dataset: Any iterable that can be iterated repeatedly. If it has ``set_epoch``, that is called for each pass.
        domain: Name of the domain, for errors.
        state: Result of :meth:`state_dict` in an earlier run.

    Raises:
        DataError: If the iterable can be read only once, needs to be copied and cannot be, yields nothing in a pass, or
            fails; every later :meth:`get` that needs to read further then fails in the same way.

    Attributes:
        first: Digests of the first samples of the stream, by position, if this reader has read them.
        random_numbers: The random numbers that samples draw.
    """

    def __init__(self, dataset: Any, domain: str, state: dict[str, Any] | None = None) -> None:
        self.first: dict[int, bytes] = {}
        self._dataset: Iterable[Any] = _own_copy(dataset, domain)
        self._own_state = OwnState(self._dataset, domain, dataset)
        self._domain = domain
        self.random_numbers, self._shard = StreamRandomNumbers(0), 0
        self._epoch = 0
        self._read = 0
        self._kept: dict[int, Any] = {}
        self._released = 0
        # end position of each pass that can still be requested
        self._ends: dict[int, int] = {}
        self._pass: Iterator[Any] | None = None
        self._failure: DataError | None = None
        self._states: deque[dict[str, Any]] = deque()
        if state is not None and self._own_state.is_usable:
            self._epoch, self._read = int(state["epoch"]), int(state["read"])
            self._released = self._read
            self._states.append(state)
            self._resume(state["dataset"])

    def draw_from(self, random_numbers: StreamRandomNumbers, shard: int = 0) -> None:
        """Sets the random numbers that later samples draw.

        Args:
            random_numbers: Shared by the readers of all shards of a stream.
            shard: The shard that this reader reads.
        """
        self.random_numbers, self._shard = random_numbers, shard

    @property
    def resumes(self) -> bool:
        """Whether a new reader can continue from this one's position."""
        return self._own_state.is_usable

    @property
    def progress(self) -> tuple[int, int, dict[int, int]]:
        """Number of the current pass, samples read in all passes, and the end position of each pass."""
        return self._epoch, self._read, dict(self._ends)

    def has(self, epoch: int, position: int) -> bool:
        """Whether pass ``epoch`` reaches a position, counted over all passes; reads up to it, or to the pass's end."""
        while self._read <= position and self._epoch <= epoch:
            self._advance()
        end = self._ends.get(epoch)
        if end is not None:
            return position < end
        return position < self._read and self._epoch <= epoch

    def get(self, position: int) -> Any:
        """The sample at a position that was not released yet."""
        if position < self._released:
            raise ValueError(f"Sample {position} of stream {self._domain!r} was released already.")
        empty = 0
        while self._read <= position:
            epoch = self._epoch
            self._advance()
            empty = empty + 1 if self._epoch > epoch else 0
            # the first pass may be empty, if a checkpoint was taken at its end
            if empty == 2:
                raise no_samples(self._domain)
        return self._kept[position]

    def read_ahead(self, position: int) -> None:
        """Reads up to and including a position, or to the end of the pass; errors are raised by :meth:`get`."""
        epoch = self._epoch
        try:
            while self._read <= position and self._epoch == epoch:
                self._advance()
        except DataError:
            return

    def release(self, position: int) -> None:
        """Drops the samples before a position."""
        for old in range(self._released, min(position, self._read)):
            self._kept.pop(old, None)
        self._released = max(self._released, position)
        while len(self._states) > 1 and self._states[1]["read"] <= self._released:
            self._states.popleft()
        for epoch in [epoch for epoch, end in self._ends.items() if end < self._released]:
            del self._ends[epoch]

    def state_dict(self) -> dict[str, Any] | None:
        """The state from which a new reader reads what was not released; ``None`` if it has to start from the start."""
        return self._states[0] if self._states and self._states[0]["read"] <= self._released else None

    def _advance(self) -> None:
        """Reads one sample, or records that the pass has ended."""
        if self._failure is not None:
            raise self._failure
        try:
            self._read_one()
        except Exception as error:
            what = str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
            self._failure = DataError(f"Domain {self._domain!r}, sample {self._read}: {what}")
            raise self._failure from error

    def _read_one(self) -> None:
        if self._pass is None:
            self._pass = self._start()
        try:
            sample = self.random_numbers.read(self._pass, self._shard, self._read)
        except StopIteration:
            self._pass = None
            self._remember(self._own_state.end_pass())
            self._ends[self._epoch] = self._read
            self._epoch += 1
            return
        if self._read >= self._released:
            self._kept[self._read] = sample
        if self._read < _COMPARED:
            self.first[self._read] = digest(sample)
        self._read += 1
        self._remember(self._own_state.follow(sample))
        if self._read % _STATE_EVERY == 0:
            self._remember(self._own_state.take(self._epoch, self._read))

    def _remember(self, state: dict[str, Any] | None) -> None:
        if state is not None:
            self._states.append(state)
        elif not self._own_state.is_usable:
            self._states.clear()

    def _resume(self, state: Any) -> None:
        try:
            self._pass = self._start(state)
        except Exception as error:
            raise DataError(
                f"Domain {self._domain!r}: the stream does not accept the state in the checkpoint "
                f"({type(error).__name__}: {error}). Give the data that the run was started with."
            ) from error

    def _start(self, state: Any = None) -> Iterator[Any]:
        set_epoch = getattr(self._dataset, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(self._epoch)
        if state is not None:
            self._dataset.load_state_dict(deepcopy(state))  # type: ignore[attr-defined]  # only states of its own get here
        return self.random_numbers.start(self._dataset, self._shard, self._epoch)


def _own_copy(dataset: Any, domain: str) -> Any:
    """A copy for one reader, if reading changes the data set; else the data set itself."""
    keeps_its_place = isinstance(dataset, Iterator)
    if keeps_its_place and not isinstance(dataset, IterableDataset):
        raise DataError(
            f"Domain {domain!r} is an iterator, which can be read only once; "
            "wrap it in an IterableDataset whose `__iter__` returns a new iterator."
        )
    # a data set with a `state_dict` keeps its position in itself, also if the method needs arguments
    if not keeps_its_place and not hasattr(dataset, "state_dict"):
        return dataset
    try:
        return deepcopy(dataset)
    except Exception as error:  # objects of the user or of a library may raise anything
        if not keeps_its_place and iter(dataset) is not iter(dataset):
            return dataset
        raise DataError(
            f"Domain {domain!r}: the {type(dataset).__name__} cannot be copied ({type(error).__name__}: {error}), and "
            "it holds its own position, so that training and alignments would each advance the other's. Create what "
            "cannot be copied in `__iter__`, or wrap it in an IterableDataset whose `__iter__` creates a new one."
        ) from error


def no_samples(domain: str) -> DataError:
    """The error for a domain of which a whole pass yields no sample."""
    return DataError(f"Domain {domain!r} is an iterable that gives no samples; remove it, or give it data.")
