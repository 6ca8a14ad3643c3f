"""Documents read from files: JSON Lines, and folders of plain text."""

import json
from collections.abc import Iterator
from pathlib import Path

from lightning_dga.data.errors import DataError


def read_jsonl(path: str | Path, field: str = "text") -> Iterator[str]:
    """Reads one document per line of a JSON Lines file, lazily. Blank lines are skipped.

    Args:
        path: A UTF-8 file with one JSON object per line.
        field: The key that holds the text.

    Returns:
        The documents, in the order of the file. A line is read, and its errors raised, when its document is asked for.

    Raises:
        FileNotFoundError: If there is no such file; raised at once.
        DataError: If a line is not UTF-8, not a JSON object, or lacks ``field``, or ``field`` is not a string of valid
            Unicode, or the file holds no document. Names the file and the line, counted from 1.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no JSON Lines file {path}.")
    return _read_lines(path, field)


def read_folder(path: str | Path, pattern: str = "**/*.txt") -> Iterator[str]:
    """Reads one document per file of a folder, lazily.

    Args:
        path: The folder.
        pattern: Which files, as of :meth:`pathlib.Path.glob`.

    Returns:
        The documents, sorted by path relative to the folder. A file is read, and its errors raised, when its document
        is asked for.

    Raises:
        FileNotFoundError: If there is no such folder; raised at once.
        DataError: If no file matches, raised at once, or a file is not UTF-8; names the file and the byte.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    files = sorted(
        (file for file in folder.glob(pattern) if file.is_file()), key=lambda file: file.relative_to(folder).parts
    )
    if not files:
        raise DataError(f"{folder}: no file matches {pattern!r}; give the `pattern` of the files to read.")
    return map(_read_file, files)


def _read_lines(path: Path, field: str) -> Iterator[str]:
    empty = True
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                empty = False
                yield _parse(line, field, f"{path}, line {number}")
    if empty:
        raise DataError(f"{path}: no document; write one JSON object with the key {field!r} per line.")


def _parse(line: bytes, field: str, place: str) -> str:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: not UTF-8 ({error.reason} at byte {error.start} of the line).") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{place}: not JSON ({error}).") from error
    if not isinstance(record, dict):
        raise DataError(f"{place}: a JSON {type(record).__name__}, expected an object with the key {field!r}.")
    if field not in record:
        raise DataError(f"{place}: no key {field!r}; found {', '.join(map(repr, record)) or 'an empty object'}.")
    text = record[field]
    if not isinstance(text, str):
        raise DataError(f"{place}: {field!r} is of type {type(text).__name__}, expected a string.")
    try:
        # JSON may escape half of a surrogate pair, which is no character and cannot be tokenised
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{place}: {field!r} is not valid Unicode ({error.reason} at character {error.start})."
        ) from error
    return text


def _read_file(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 ({error.reason} at byte {error.start}).") from error
