"""Reading a domain that has no index: an iterable data set, addressed by position."""

from collections.abc import Iterable, Iterator
from typing import Any

from lightning_dga.data.errors import DataError


class StreamReader:
    """Gives the samples of an iterable by position, starting it again when it ends.

    Samples from the last :meth:`release` on are kept, so that work that was recalled can be drawn again. A position far
    ahead is reached by reading up to it.

    Args:
        dataset: Any iterable that can be iterated again. Where it has ``set_epoch``, that is called for each pass.
        domain: Its name, for errors.

    Raises:
        DataError: If it is its own iterator, or a pass over it gives nothing.
    """

    def __init__(self, dataset: Any, domain: str) -> None:
        self._dataset: Iterable[Any] = dataset
        self._domain = domain
        self._epoch = 0
        self._read = 0
        self._kept: dict[int, Any] = {}
        self._released = 0
        self._pass: Iterator[Any] | None = None

    def get(self, position: int) -> Any:
        """The sample at a position that was not released."""
        if position < self._released:
            raise ValueError(f"Sample {position} of stream {self._domain!r} was released already.")
        while self._read <= position:
            sample = self._next()
            if self._read >= self._released:
                self._kept[self._read] = sample
            self._read += 1
        return self._kept[position]

    def release(self, position: int) -> None:
        """Forgets the samples before a position."""
        for old in range(self._released, min(position, self._read)):
            self._kept.pop(old, None)
        self._released = max(self._released, position)

    def _next(self) -> Any:
        for _ in range(2):
            if self._pass is None:
                self._pass = self._start()
            try:
                return next(self._pass)
            except StopIteration:
                self._pass = None
                self._epoch += 1
        raise DataError(f"Domain {self._domain!r} is an iterable that gives no samples.")

    def _start(self) -> Iterator[Any]:
        set_epoch = getattr(self._dataset, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(self._epoch)
        iterator = iter(self._dataset)
        if iterator is self._dataset:
            raise DataError(
                f"Domain {self._domain!r} is an iterator, which can be read only once; "
                "wrap it in an IterableDataset whose `__iter__` starts anew."
            )
        return iterator
