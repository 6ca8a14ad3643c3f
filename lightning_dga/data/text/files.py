"""Files of text: by path or URL, plain or compressed."""

import gzip
import io
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import IO, Any, cast

import fsspec

_GZIP, _ZSTD = ".gz", ".zst"
COMPRESSED = (_GZIP, _ZSTD)


def list_files(path: str | Path, is_wanted: Callable[[str], bool]) -> list[str]:
    """The files that a path, a folder or a pattern stands for, sorted.

    Args:
        path: A file; a folder, whose wanted files are taken, those of its sub-folders too; or a pattern such as
            ``data/*.parquet``. A path on this machine or a URL of any kind that ``fsspec`` knows, such as ``s3://…``.
        is_wanted: Which files of a folder to take, by name.

    Raises:
        FileNotFoundError: If there is no such file or folder, no file matches, or none of a folder is wanted.
    """
    system, root = fsspec.core.url_to_fs(str(path))
    if system.isfile(root):
        found = [root]
    elif system.isdir(root):
        found = sorted(file for file in system.find(root) if is_wanted(file))
    else:
        found = sorted(system.glob(root)) if any(character in root for character in "*?[") else []
    if not found:
        raise FileNotFoundError(f"There is no file {path}, no folder of that name with a file to read, and no match.")
    return [system.unstrip_protocol(file) if "://" in str(path) else file for file in found]


def open_file(url: str) -> IO[bytes]:
    """Opens a file for reading, decompressed by its ending: ``.gz`` or ``.zst``.

    Raises:
        ImportError: If the file is compressed by a library that is not installed.
    """
    raw = cast(IO[bytes], fsspec.open(url, "rb").open())
    try:
        if url.endswith(_GZIP):
            return cast(IO[bytes], _Owning(gzip.GzipFile(fileobj=raw), raw))
        if url.endswith(_ZSTD):
            return cast(IO[bytes], _Owning(_zstd().ZstdFile(raw), raw))
    except BaseException:
        raw.close()
        raise
    return raw


def damage() -> tuple[type[Exception], ...]:
    """What reading a file raises that is cut off, is damaged, or cannot be reached."""
    try:
        return OSError, EOFError, zlib.error, _zstd().ZstdError
    except ImportError:
        return OSError, EOFError, zlib.error


def is_compressed(url: str) -> bool:
    """Whether a file is compressed as a whole, so that it has no parts that can be read alone."""
    return url.endswith(COMPRESSED)


def kind(url: str) -> str:
    """What ends a file's name, compressed or not: ``"jsonl"``, ``"parquet"``, ``"txt"`` and the like."""
    for ending in COMPRESSED:
        url = url.removesuffix(ending)
    return Path(url).suffix.removeprefix(".").lower()


def stem(url: str) -> str:
    """A file's name without what :func:`kind` says, and without its compression."""
    for ending in COMPRESSED:
        url = url.removesuffix(ending)
    return Path(url).stem


class _Owning(io.BufferedReader):
    """A decompressing reader that closes the file that it reads from too."""

    def __init__(self, reader: Any, raw: IO[bytes]) -> None:
        super().__init__(reader, 1 << 16)
        self._file = raw

    def close(self) -> None:
        super().close()
        self._file.close()


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
