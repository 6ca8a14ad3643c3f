"""Reads documents from JSON Lines files, with one JSON object per line."""

import json
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

import fsspec

from lightning_dga.data.errors import DataError
from lightning_dga.data.text.readers.files import damage, is_compressed, open_file
from lightning_dga.data.text.readers.split import Split

_SPLIT_BYTES = 64 << 20
_FIRST_LINE_BYTES = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_KEYS_SHOWN = 12


def split_lines(url: str, size: int = _SPLIT_BYTES) -> list[Split]:
    """Parts of about ``size`` bytes; a compressed file is a single part, because it cannot be read in parts."""
    if is_compressed(url):
        return [Split(url)]
    system, path = fsspec.core.url_to_fs(url)
    bounds = [*range(0, max(int(system.size(path)), 1), size)]
    return [Split(url, begin, end) for begin, end in zip(bounds, [*bounds[1:], None], strict=True)]


def begins_with_record(url: str) -> bool:
    """Whether the first line of a file is a complete JSON object, which tells JSON Lines from other ``.json`` files."""
    try:
        with open_file(url) as file:
            line = b""
            while not line.strip():
                line = file.readline(_FIRST_LINE_BYTES)
                if not line:
                    return False
        line = line.removeprefix(BOM_UTF8).strip()
        # a line that is longer than what is read here does not come from a pretty-printed object
        return line.startswith(b"{") and (len(line) >= _FIRST_LINE_BYTES // 2 or isinstance(_load(line.decode()), dict))
    except (ValueError, RecursionError):
        return False
    except damage():
        return False


def read_lines(split: Split, field: str, at: int = 0) -> Iterator[tuple[int, str]]:
    """Reads the documents of the lines that begin within a part. Blank lines are skipped.

    Args:
        split: The part.
        field: The key that holds the text.
        at: Where to start: 0, or the position that was returned with the last document read.

    Returns:
        For each document the byte at which the next line begins, and the text.

    Raises:
        DataError: If a line cannot be used, or a compressed file is truncated or damaged; the message names the file
            and the line.
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
                # concatenated files have a byte order mark at the start of each
                line = line.removeprefix(BOM_UTF8)
                if line.strip():
                    yield offset, _parse(line, field, split.url, start)
    except damage() as error:
        where = f"{split.url}, byte {offset}" if offset else split.url
        raise DataError(f"{where}: cannot be read ({type(error).__name__}: {error}).") from error


def _parse(line: bytes, field: str, url: str, start: int) -> str:
    try:
        record = _load(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        reason = encoding_hint(line) or f"{error.reason} at byte {error.start} of the line"
        raise _error(url, start, f"not UTF-8 ({reason}).") from error
    except RecursionError as error:
        raise _error(url, start, "not JSON that can be parsed: its arrays or objects are nested too deeply.") from error
    except ValueError as error:
        reason = encoding_hint(line) or str(error)
        raise _error(url, start, f"not JSON ({reason}); expected one object on each line.") from error
    if not isinstance(record, dict):
        found = f"a JSON {type(record).__name__}, expected an object with the key {field!r}"
        raise _error(url, start, f"{found}; write one object on each line.")
    if field not in record:
        raise _error(url, start, f"no key {field!r}; found {_keys(record, field)}.")
    text = record[field]
    if not isinstance(text, str):
        raise _error(url, start, f"{field!r} is of type {type(text).__name__}, expected a string.")
    # JSON does not define which of two equal keys counts; only lines that contain the key twice are parsed again
    if line.count(json.dumps(field).encode()) > 1 and _top_level_keys(line).count(field) > 1:
        raise _error(url, start, f"the key {field!r} occurs more than once; keep one.")
    try:
        # JSON may escape half of a surrogate pair, which is not a character and cannot be tokenised
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        message = f"{field!r} is not valid Unicode ({error.reason} at character {error.start})."
        raise _error(url, start, message) from error
    return text


def _load(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        raise
    except ValueError:
        # an integer with more digits than Python converts; the values of numbers do not matter here
        return json.loads(line, parse_int=lambda digits: 0)


def _top_level_keys(line: bytes) -> list[str]:
    # the hook sees the outermost object last
    keys: list[list[str]] = []
    json.loads(line, parse_int=lambda digits: 0, object_pairs_hook=lambda pairs: keys.append([key for key, _ in pairs]))
    return keys[-1]


def _keys(record: dict[str, Any], field: str) -> str:
    if not record:
        return "an empty object"
    shown = ", ".join(map(repr, [*record][:_KEYS_SHOWN])) + (", …" if len(record) > _KEYS_SHOWN else "")
    close = get_close_matches(field.lower(), {key.lower(): key for key in record}, n=1)
    named = next((key for key in record if close and key.lower() == close[0]), None)
    hint = f" Did you mean {named!r}?" if named is not None else ""
    return f"{shown}.{hint} Name the key that holds the text with `field`, or rename it"


def encoding_hint(content: bytes) -> str:
    """The probable encoding of text that is not UTF-8, and what to do; empty if it cannot be told."""
    if content.startswith(_GZIP_MAGIC):
        return "it is compressed by gzip; let its name end in .gz"
    if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) or b"\0" in content:
        return "it seems to be UTF-16; convert it, for example with iconv -f UTF-16 -t UTF-8"
    return ""


def _error(url: str, start: int, message: str) -> DataError:
    # lines are counted only for the message, because reading may have started in the middle of the file
    with open_file(url) as file:
        number, left = 1, start
        while left > 0 and (piece := file.read(min(left, 1 << 20))):
            number += piece.count(b"\n")
            left -= len(piece)
    return DataError(f"{url}, line {number}: {message}")
