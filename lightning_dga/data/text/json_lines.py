"""Documents of JSON Lines files: one JSON object per line."""

import json
from collections.abc import Iterator

import fsspec

from lightning_dga.data.errors import DataError
from lightning_dga.data.text.files import damage, is_compressed, open_file
from lightning_dga.data.text.split import Split

_SPLIT_BYTES = 64 << 20


def split_lines(url: str, size: int = _SPLIT_BYTES) -> list[Split]:
    """Parts of about ``size`` bytes; one for a compressed file, which has no parts that can be read alone."""
    if is_compressed(url):
        return [Split(url)]
    system, path = fsspec.core.url_to_fs(url)
    bounds = [*range(0, max(int(system.size(path)), 1), size)]
    return [Split(url, begin, end) for begin, end in zip(bounds, [*bounds[1:], None], strict=True)]


def read_lines(split: Split, field: str, at: int = 0) -> Iterator[tuple[int, str]]:
    """Reads the documents of the lines that begin within a part. Blank lines are skipped.

    Args:
        split: The part.
        field: The key that holds the text.
        at: Where to read on: 0, or what came with the last document that was read.

    Returns:
        Of each document where the next line begins, in bytes, and the text.

    Raises:
        DataError: If a line cannot be used, or a compressed file is cut off or damaged. Names file and line.
    """
    offset = max(at, split.begin)
    try:
        with open_file(split.url) as file:
            if offset and not at:
                # the line that begins before the part belongs to the part before it
                file.seek(offset - 1)
                offset += len(file.readline()) - 1
            else:
                file.seek(offset)
            while split.end is None or offset < split.end:
                line = file.readline()
                if not line:
                    break
                start, offset = offset, offset + len(line)
                if line.strip():
                    yield offset, _parse(line, field, split.url, start)
    except damage() as error:
        where = f"{split.url}, byte {offset}" if offset else split.url
        raise DataError(f"{where}: cannot be read ({type(error).__name__}: {error}).") from error


def _parse(line: bytes, field: str, url: str, start: int) -> str:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _error(url, start, f"not UTF-8 ({error.reason} at byte {error.start} of the line).") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise _error(url, start, f"not JSON ({error}).") from error
    if not isinstance(record, dict):
        raise _error(url, start, f"a JSON {type(record).__name__}, expected an object with the key {field!r}.")
    if field not in record:
        found = ", ".join(map(repr, record)) or "an empty object"
        raise _error(url, start, f"no key {field!r}; found {found}.")
    text = record[field]
    if not isinstance(text, str):
        raise _error(url, start, f"{field!r} is of type {type(text).__name__}, expected a string.")
    try:
        # JSON may escape half of a surrogate pair, which is no character and cannot be tokenised
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        message = f"{field!r} is not valid Unicode ({error.reason} at character {error.start})."
        raise _error(url, start, message) from error
    return text


def _error(url: str, start: int, message: str) -> DataError:
    # lines are counted only now: reading may have begun in the middle of the file
    with open_file(url) as file:
        number, left = 1, start
        while left > 0 and (piece := file.read(min(left, 1 << 20))):
            number += piece.count(b"\n")
            left -= len(piece)
    return DataError(f"{url}, line {number}: {message}")
