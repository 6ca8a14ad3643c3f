"""Documents of any number of files, read lazily."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import IterableDataset
from typing_extensions import override

from lightning_dga.data.errors import DataError
from lightning_dga.data.text.readers.files import file_size, is_compressed, kind
from lightning_dga.data.text.readers.json_lines import begins_with_record, read_lines, split_lines
from lightning_dga.data.text.readers.listing import list_files
from lightning_dga.data.text.readers.parquet import read_rows, split_row_groups
from lightning_dga.data.text.readers.plain_text import read_text, split_text
from lightning_dga.data.text.readers.split import Split

# approximate compression ratio of text
_COMPRESSION = 4


class _Format(NamedTuple):
    split: Callable[[str], list[Split]]
    read: Callable[[Split, str, int], Iterator[tuple[int, str]]]


_FORMATS = {
    "jsonl": _Format(split_lines, read_lines),
    "parquet": _Format(split_row_groups, read_rows),
    "txt": _Format(split_text, read_text),
    "json": _Format(split_lines, read_lines),
}


class DocumentStream(IterableDataset[str]):
    r"""The documents of files, one after the other; an iterable that can be sharded and resumed.

    Formats are JSON Lines (``.jsonl``, ``.ndjson``, and ``.json`` with an object on each line), Parquet (``.parquet``)
    and plain text (``.txt``). The first and the last may be compressed (``.gz``, ``.zst``, ``.xz``, ``.bz2``). Hidden
    files in a folder are skipped (:func:`~.listing.is_hidden`), and a warning names other files that are not read. One
    line, some rows of a row group, or one text file is in memory at a time.

    Args:
        files: A file, a folder or a pattern, or several of them, as paths or URLs (:func:`~.listing.list_files`).
        field: The key or column that holds the text.
        seed: Seed by which the parts of the files (row groups, text files, 64 MiB of lines) are shuffled in every
            epoch. If not given, they are read in the order of the files.

    Raises:
        FileNotFoundError: If there is nothing to read.
        DataError: If a file has an unknown extension, or cannot be read. An error within a file is raised when it is
            reached, and names the file and the line or row.

    Example:
        >>> import json, tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp(), "wiki.jsonl")
        >>> _ = file.write_text(json.dumps({"text": "one"}) + "\n" + json.dumps({"text": "two"}))
        >>> list(DocumentStream(file))
        ['one', 'two']
    """

    def __init__(
        self, files: str | Path | Sequence[str | Path], field: str = "text", *, seed: int | None = None
    ) -> None:
        paths = [files] if isinstance(files, str | Path) else files
        urls = [url for path in paths for url in list_files(path, is_text)]
        self.field = field
        self.seed = seed
        self.splits = [split for url in urls for split in _format(url).split(url)]
        self._epoch = 0
        # the position in the epoch: number of the split, in the order of the epoch, and the position in it
        self._position = (0, 0)

    @classmethod
    def of(cls, splits: Sequence[Split], field: str = "text") -> "DocumentStream":
        """A stream of the documents in given parts of files."""
        stream = object.__new__(cls)
        stream.__dict__.update(field=field, seed=None, splits=list(splits), _epoch=0, _position=(0, 0))
        return stream

    @property
    def num_shards(self) -> int:
        """Number of shards into which the stream can be split."""
        return len(self.splits)

    @property
    def size_hint(self) -> int:
        """Approximate number of bytes of text, so that shards are read in proportion to their size."""
        return sum(map(_size, self.splits))

    def shard(self, num_shards: int, index: int) -> "DocumentStream":
        """Every ``num_shards``-th part of the files, from part ``index`` on."""
        part = object.__new__(type(self))
        part.__dict__.update(self.__dict__, splits=self.splits[index::num_shards], _position=(0, 0))
        return part

    def set_epoch(self, epoch: int) -> None:
        """Sets the number of the epoch for the next iteration."""
        self._epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        """The position of the iteration, right after the last document that it yielded."""
        return {"position": list(self._position)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Makes the next iteration start from the state."""
        split, at = state_dict["position"]
        self._position = (int(split), int(at))

    @override
    def __iter__(self) -> Iterator[str]:
        (first, at), self._position = self._position, (0, 0)
        for number, index in enumerate(self._order()[first:], start=first):
            split = self.splits[index]
            for following, text in _format(split.url).read(split, self.field, at):
                self._position = (number, following)
                yield text
            at = 0
        self._position = (0, 0)

    def _order(self) -> list[int]:
        if self.seed is None:
            return list(range(len(self.splits)))
        generator = np.random.default_rng([self.seed & 0xFFFFFFFFFFFFFFFF, self._epoch])
        return generator.permutation(len(self.splits)).tolist()


def is_text(url: str) -> bool:
    """Whether :class:`DocumentStream` reads a file: by its extension, and for ``.json`` also by its first line."""
    return kind(url) in _FORMATS and (kind(url) != "json" or begins_with_record(url))


def _size(split: Split) -> int:
    if split.size is not None:
        return split.size
    if split.end is not None:
        return split.end - split.begin
    try:
        size = file_size(split.url)
    except OSError:  # raised again when the file is read
        return 0
    return _COMPRESSION * size if is_compressed(split.url) else size - split.begin


def _format(url: str) -> _Format:
    found = _FORMATS.get(kind(url))
    if found is None:
        raise DataError(f"{url}: its name must end in one of {', '.join('.' + name for name in _FORMATS)}.")
    return found
