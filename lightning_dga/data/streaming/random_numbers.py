"""Random numbers of streams: each sample of a stream is read under a seed of its own, if the stream draws any."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from lightning_dga.data.loading.generators import Fingerprint, restored_global_state, seed_global
from lightning_dga.data.sampling.permutation import keys

# number of first samples that are read under seeds to find out whether a stream draws random numbers
_WATCHED = 256


class StreamRandomNumbers:
    """Reads the samples of a stream such that random numbers depend only on the seed and on the sample.

    This covers torch's CPU generator, NumPy's global generator and ``random``. All threads share them, so a stream must
    not be read in a thread while :attr:`may_draw` is true, and only within :func:`training_numbers_kept`.

    Seeding takes longer than reading most samples. So if the first 256 samples of a stream, over all its shards, draw
    no random numbers, it is assumed to draw none, and its later samples are read without seeding.

    Args:
        *key: Seed of the random numbers, followed by integers that identify the stream.

    Attributes:
        may_draw: Whether the stream draws random numbers, or has not yet been found to draw none.
    """

    def __init__(self, *key: int) -> None:
        self.may_draw = True
        self._key = int(keys(*key)[0])
        self._unread = _WATCHED

    def start(self, dataset: Any, shard: int, epoch: int) -> Iterator[Any]:
        """Returns ``iter(dataset)`` for an epoch of a shard."""
        with restored_global_state():
            self._seed(shard, -1 - epoch)
            return iter(dataset)

    def read(self, samples: Iterator[Any], shard: int, position: int) -> Any:
        """Returns ``next(samples)``, the sample at a position of a shard, counted over all epochs."""
        if not self.may_draw:
            return next(samples)
        self._seed(shard, position)
        if not self._unread:
            return next(samples)
        before = Fingerprint()
        sample = next(samples)
        draws = bool(before.changed())
        self._unread = 0 if draws else self._unread - 1
        self.may_draw = draws or self._unread > 0
        return sample

    def _seed(self, shard: int, position: int) -> None:
        seed_global(int(keys(self._key, shard, position)[0]))


def training_numbers_kept(streams: Iterable[StreamRandomNumbers]) -> AbstractContextManager[None]:
    """Restores the states of the global generators on exit, if one of some streams may draw from them."""
    return restored_global_state() if any(stream.may_draw for stream in streams) else nullcontext()
