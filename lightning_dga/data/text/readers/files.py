"""Opens files by path or URL, plain or compressed."""

import bz2
import gzip
import io
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import IO, Any, cast

import fsspec

# alternative extensions
_ALIASES = {"ndjson": "jsonl", "jsonlines": "jsonl", "jl": "jsonl", "pq": "parquet", "parq": "parquet", "text": "txt"}


def open_file(url: str) -> IO[bytes]:
    """Opens a file for reading, decompressed by its ending: ``.gz``, ``.zst``, ``.xz`` or ``.bz2``, in any case.

    Raises:
        ImportError: If the file is compressed by a library that is not installed.
    """
    raw = cast(IO[bytes], fsspec.open(url, "rb").open())
    try:
        if decompress := _DECOMPRESSORS.get(_compression(url)):
            return cast(IO[bytes], _Owning(decompress(raw), raw))
    except BaseException:
        raw.close()
        raise
    return raw


def file_size(url: str) -> int:
    """Size of a file in bytes, as stored.

    Raises:
        OSError: If there is no such file, or it cannot be reached.
    """
    system, path = fsspec.core.url_to_fs(url)
    return int(system.size(path) or 0)


def damage() -> tuple[type[Exception], ...]:
    """The errors raised when reading a file that is truncated, damaged or unreachable."""
    errors: list[type[Exception]] = [OSError, EOFError, zlib.error]
    for library, error in ((_lzma, "LZMAError"), (_zstd, "ZstdError")):
        with suppress(ImportError):
            errors.append(getattr(library(), error))
    return tuple(errors)


def is_compressed(url: str) -> bool:
    """Whether a file is compressed as a whole, so that it cannot be read in parts."""
    return bool(_compression(url))


def kind(url: str) -> str:
    """The format of a file by its name, without the compression: ``"jsonl"``, ``"parquet"``, ``"txt"`` and so on.

    Example:
        >>> kind("a.jsonl.gz"), kind("A.JSONL.GZ"), kind("a.ndjson")
        ('jsonl', 'jsonl', 'jsonl')
    """
    ending = Path(_uncompressed(url)).suffix.removeprefix(".").lower()
    return _ALIASES.get(ending, ending)


def stem(url: str) -> str:
    """The name of a file without the extensions for format and compression."""
    return Path(_uncompressed(url)).stem


def _compression(url: str) -> str:
    ending = Path(url).suffix.lower()
    return ending if ending in _DECOMPRESSORS else ""


def _uncompressed(url: str) -> str:
    return url[: -len(ending)] if (ending := _compression(url)) else url


class _Owning(io.BufferedReader):
    """A decompressing reader that also closes the underlying file."""

    def __init__(self, reader: Any, raw: IO[bytes]) -> None:
        super().__init__(reader, 1 << 16)
        self._file = raw

    def close(self) -> None:
        super().close()
        self._file.close()


def _open_zstd(raw: IO[bytes]) -> Any:
    zstd = _zstd()
    # `zstd --long` writes windows that the library refuses by default; they take memory only if a frame has one
    longest = zstd.DecompressionParameter.window_log_max
    return zstd.ZstdFile(raw, options={longest: longest.bounds()[1]})


_DECOMPRESSORS: dict[str, Callable[[IO[bytes]], Any]] = {
    ".gz": lambda raw: gzip.GzipFile(fileobj=raw),
    ".zst": _open_zstd,
    ".xz": lambda raw: _lzma().LZMAFile(raw),
    ".bz2": bz2.BZ2File,
}


def _lzma() -> ModuleType:
    try:
        import lzma
    except ImportError as error:
        raise ImportError("Files that end in .xz need a Python that was built with `lzma`.") from error
    return lzma


def _zstd() -> ModuleType:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        try:
            from backports import zstd
        except ImportError as error:
            raise ImportError(
                "Files that end in .zst need `backports.zstd`: pip install 'lightning-dga[text]'"
            ) from error
    return zstd
