"""What ranks exchange about streams: how far each has read each shard, and whether they read the same samples."""

from collections.abc import Callable

from lightning_dga.data.errors import DataError
from lightning_dga.data.loading.generators import restored_global_state
from lightning_dga.data.streaming.streams import StreamReader
from lightning_dga.distributed import gather_objects

_Key = tuple[int, int]


class Readings:
    """How far each shard has been read by any rank."""

    def __init__(self) -> None:
        self._known: dict[_Key, tuple[int, int, dict[int, int]]] = {}

    def add(self, progress: dict[_Key, tuple[int, int, dict[int, int]]]) -> None:
        """Adds the ``progress`` of one rank's :class:`~lightning_dga.data.streaming.streams.StreamReader` objects."""
        for key, (epoch, read, ends) in progress.items():
            known = self._known.get(key)
            if known is None or known[:2] < (epoch, read):
                self._known[key] = epoch, read, ends | (known[2] if known and known[0] == epoch else {})

    def has(self, key: _Key, epoch: int, position: int) -> bool | None:
        """Whether a pass over a shard reaches a position; ``None`` if that is not known."""
        if key not in self._known:
            return None
        current, read, ends = self._known[key]
        if epoch in ends:
            return position < ends[epoch]
        return True if epoch == current and position < read else None


def differing_streams(first: dict[_Key, dict[int, bytes]], new_reader: Callable[[_Key], StreamReader]) -> list[int]:
    """The domains whose streams yield different samples on different ranks at one position; all ranks must call it.

    A stream that draws from generators of its own may differ too, but is not reported: it also differs when one rank
    reads it twice.

    Args:
        first: Digests of the first samples of each shard that this rank has read, by position.
        new_reader: Makes another reader of a shard, from its start.
    """
    seen: dict[tuple[_Key, int], set[bytes]] = {}
    for of_process in gather_objects(first):
        for key, digests in of_process.items():
            for position, found in digests.items():
                seen.setdefault((key, position), set()).add(found)
    suspects = sorted({key for (key, _), digests in seen.items() if len(digests) > 1})
    if not suspects:
        return []
    with restored_global_state():
        repeats = [key for key in suspects if _reads_the_same_again(first.get(key, {}), key, new_reader)]
    agreed = set.intersection(*map(set, gather_objects(repeats)))
    return sorted({domain for domain, _ in agreed})


def _reads_the_same_again(first: dict[int, bytes], key: _Key, new_reader: Callable[[_Key], StreamReader]) -> bool:
    reader = new_reader(key)
    try:
        for position in sorted(first):
            reader.get(position)
    except (DataError, ValueError):
        return False
    return all(reader.first.get(position) == found for position, found in first.items())
