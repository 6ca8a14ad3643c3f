"""Reading a domain that has no index: an iterable data set, addressed by position."""

from collections import deque
from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import Any

from lightning_dga.data.errors import DataError

# a data set's own state is taken this often, in samples; a resumed run reads at most as many again
_STATE_EVERY = 64


class StreamReader:
    """Gives the samples of an iterable by position, starting it again when it ends.

    Samples from the last :meth:`release` on are kept, so that work that was recalled can be drawn again. A position far
    ahead is reached by reading up to it, from the last state that is known where the data set has ``state_dict`` and
    ``load_state_dict`` (as Hugging Face's streams do), else from the start.

    Args:
        dataset: Any iterable that can be iterated again. Where it has ``set_epoch``, that is called for each pass.
        domain: Its name, for errors.
        state: What :meth:`state_dict` gave in an earlier run.
        num_shards: Of how many shards of the domain this is one.

    Raises:
        DataError: If it is its own iterator, a pass over it gives nothing, or it fails; every later :meth:`get` that
            needs to read on then fails alike.
    """

    def __init__(self, dataset: Any, domain: str, state: dict[str, Any] | None = None, num_shards: int = 1) -> None:
        self._num_shards = num_shards
        self._resumes = _resumes_exactly(dataset)
        # it will hold the state of this reader's pass, and nobody else's
        self._dataset: Iterable[Any] = deepcopy(dataset) if self._resumes else dataset
        self._domain = domain
        self._epoch = 0
        self._read = 0
        self._kept: dict[int, Any] = {}
        self._released = 0
        self._pass: Iterator[Any] | None = None
        self._failure: DataError | None = None
        self._states: deque[dict[str, Any]] = deque()
        if state is not None and self._resumes:
            self._epoch, self._read = int(state["epoch"]), int(state["read"])
            self._released = self._read
            self._states.append(state)
            self._pass = self._start(state["dataset"])

    def get(self, position: int) -> Any:
        """The sample at a position that was not released."""
        if position < self._released:
            raise ValueError(f"Sample {position} of stream {self._domain!r} was released already.")
        self.read_to(position)
        return self._kept[position]

    def read_to(self, position: int) -> None:
        """Reads ahead, up to and with a position."""
        while self._read <= position:
            if self._failure is not None:
                raise self._failure
            try:
                sample = self._next()
            except DataError as error:
                self._failure = error
                raise
            if self._read >= self._released:
                self._kept[self._read] = sample
            self._read += 1
            if self._resumes and self._read % _STATE_EVERY == 0:
                own = self._dataset.state_dict()  # type: ignore[attr-defined]
                self._states.append({"epoch": self._epoch, "read": self._read, "dataset": deepcopy(own)})

    def release(self, position: int) -> None:
        """Forgets the samples before a position."""
        for old in range(self._released, min(position, self._read)):
            self._kept.pop(old, None)
        self._released = max(self._released, position)
        while len(self._states) > 1 and self._states[1]["read"] <= self._released:
            self._states.popleft()

    def state_dict(self) -> dict[str, Any] | None:
        """From where a new reader reads on what was not released; ``None`` if it has to start at the beginning."""
        return self._states[0] if self._states and self._states[0]["read"] <= self._released else None

    def _next(self) -> Any:
        for _ in range(2):
            if self._pass is None:
                self._pass = self._start()
            try:
                return next(self._pass)
            except StopIteration:
                self._pass = None
                self._epoch += 1
            except Exception as error:
                what = str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
                raise DataError(f"Domain {self._domain!r}, sample {self._read}: {what}") from error
        few = f", at least one of its {self._num_shards} shards; lower `stream_shards`" if self._num_shards > 1 else ""
        raise DataError(f"Domain {self._domain!r} is an iterable that gives no samples{few}.")

    def _start(self, state: Any = None) -> Iterator[Any]:
        set_epoch = getattr(self._dataset, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(self._epoch)
        if state is not None:
            self._dataset.load_state_dict(deepcopy(state))  # type: ignore[attr-defined]
        iterator = iter(self._dataset)
        if iterator is self._dataset:
            raise DataError(
                f"Domain {self._domain!r} is an iterator, which can be read only once; "
                "wrap it in an IterableDataset whose `__iter__` starts anew."
            )
        return iterator


def _resumes_exactly(dataset: Any) -> bool:
    """Whether a data set's own state brings it back to the very sample.

    Hugging Face's shuffle buffer is not part of its state, so such a stream is read from its start again.
    """
    if not (hasattr(dataset, "state_dict") and hasattr(dataset, "load_state_dict")):
        return False
    if hasattr(dataset, "documents"):
        return _resumes_exactly(dataset.documents)
    inner = getattr(dataset, "_ex_iterable", None)
    while inner is not None:
        if hasattr(inner, "buffer_size"):
            return False
        inner = getattr(inner, "ex_iterable", None)
    return True
