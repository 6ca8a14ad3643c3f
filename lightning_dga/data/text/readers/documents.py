"""Reads documents from JSON Lines files and from folders of plain text."""

from collections.abc import Iterator
from pathlib import Path

from lightning_dga.data.errors import DataError
from lightning_dga.data.text.readers.json_lines import read_lines
from lightning_dga.data.text.readers.listing import is_hidden
from lightning_dga.data.text.readers.plain_text import read_text
from lightning_dga.data.text.readers.split import Split


def read_jsonl(path: str | Path, field: str = "text") -> Iterator[str]:
    """Reads one document per line of a JSON Lines file, lazily. Blank lines are skipped.

    Args:
        path: A UTF-8 file with one JSON object per line, compressed if its name says so (``.gz``, ``.zst``, ``.xz``,
            ``.bz2``).
        field: The key that holds the text.

    Returns:
        The documents, in the order of the file. Each line is read when its document is requested, and errors are raised
        then.

    Raises:
        FileNotFoundError: If there is no such file; raised at once.
        DataError: If a line is not UTF-8, is not a JSON object, or has no ``field`` that is a string of valid Unicode,
            or if the file holds no document. The message names the file and the line, counted from 1.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no JSON Lines file {path}.")
    return _documents(path, field)


def read_folder(path: str | Path, pattern: str = "**/*.txt") -> Iterator[str]:
    """Reads one document per file of a folder, lazily.

    Args:
        path: The folder.
        pattern: Which files to read, as for :meth:`pathlib.Path.glob`; hidden files are skipped
            (:func:`~lightning_dga.data.text.readers.listing.is_hidden`).

    Returns:
        The documents, sorted by path relative to the folder. Each file is read when its document is requested, and
        errors are raised then.

    Raises:
        FileNotFoundError: If there is no such folder; raised at once.
        DataError: If no file matches, raised at once, or a file is not UTF-8; the message names the file and the byte.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    matches = (file for file in folder.glob(pattern) if file.is_file())
    visible = (file for file in matches if not any(map(is_hidden, file.relative_to(folder).parts)))
    files = sorted(visible, key=lambda file: file.relative_to(folder).parts)
    if not files:
        raise DataError(f"{folder}: no file matches {pattern!r}; give the `pattern` of the files to read.")
    return map(_read_file, files)


def _documents(path: Path, field: str) -> Iterator[str]:
    empty = True
    for _, text in read_lines(Split(str(path)), field):
        empty = False
        yield text
    if empty:
        raise DataError(f"{path}: no document; write one JSON object with the key {field!r} per line.")


def _read_file(file: Path) -> str:
    return next(read_text(Split(str(file))))[1]
