"""Lists the files of a path, a folder or a pattern, without those left by editors, browsers and file systems."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import fsspec

_logger = logging.getLogger(__name__)

_LEFT_BEHIND = frozenset(
    {
        *("__pycache__", "__MACOSX", "lost+found", "Thumbs.db", "desktop.ini"),
        # written by Spark, Delta Lake and Parquet writers
        *("_SUCCESS", "_metadata", "_common_metadata", "_temporary", "_delta_log", "_spark_metadata"),
    }
)
_LEFT_BEHIND_BEGINNINGS = (".", "#", "_started_", "_committed_")
_LEFT_BEHIND_ENDINGS = ("~", ".swp", ".swo", ".tmp", ".part", ".partial", ".crdownload", ".lock")
_SHOWN = 5


def is_hidden(name: str) -> bool:
    """Whether a file or folder of that name is not data, and is skipped without a warning.

    These are names that begin with a dot (``.ipynb_checkpoints``, ``._wiki.jsonl``, ``.git``), files left by an editor,
    a browser or a killed writer (``wiki.jsonl~``, ``.swp``, ``.tmp``, ``.part``, ``.crdownload``), and markers of Spark
    and of operating systems (``_SUCCESS``, ``_delta_log``, ``__MACOSX``, ``Thumbs.db``).

    Example:
        >>> [is_hidden(name) for name in (".ipynb_checkpoints", "wiki.jsonl~", "_wiki.jsonl")]
        [True, True, False]
    """
    return (
        name in _LEFT_BEHIND or name.startswith(_LEFT_BEHIND_BEGINNINGS) or name.lower().endswith(_LEFT_BEHIND_ENDINGS)
    )


def walk(folder: str | Path) -> Iterator[str]:
    """The files of a local folder and its sub-folders that are not hidden; links are followed.

    A folder that is reached more than once is read once, so that a link to a parent folder is harmless.
    """
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in sorted(files):
            if not is_hidden(name):
                yield os.path.join(parent, name)


def list_files(path: str | Path, is_wanted: Callable[[str], bool]) -> list[str]:
    """The files of a path, a folder or a pattern, sorted.

    Args:
        path: A file, a folder (with its sub-folders), or a pattern such as ``data/*.parquet``; a local path or any URL
            that ``fsspec`` knows, such as ``s3://…``. Hidden files of a folder or a pattern are skipped
            (:func:`is_hidden`), unless the pattern itself contains a hidden name, as ``.cache/*.jsonl`` does.
        is_wanted: Selects the files of a folder by path. A warning names the others.

    Raises:
        FileNotFoundError: If there is no such file or folder, no file matches, or no file of a folder is wanted.
    """
    system, root = fsspec.core.url_to_fs(str(path))
    unread: list[str] = []
    if system.isfile(root):
        found = [root]
    elif system.isdir(root):
        files = walk(root) if _is_local(system) else _below(root, system.find(root))
        found = []
        for file in sorted(files):
            (found if is_wanted(_url(system, file, path)) else unread).append(file)
        warn_of_unread(str(path), [_relative(file, root) for file in unread])
    else:
        found = _matches(system, root)
    if not found:
        beside = f" ({_listed([_relative(file, root) for file in unread])} cannot be read)" if unread else ""
        raise FileNotFoundError(
            f"There is no file {path}, no folder of that name with a file to read{beside}, and no file that matches."
        )
    return [_url(system, file, path) for file in found]


@cache
def _warn_once(message: str) -> None:
    _logger.warning("%s", message)


def warn_of_unread(where: str, names: Iterable[str]) -> None:
    """Warns, once per folder, about files that are not read because of their extension."""
    if unread := sorted(names):
        _warn_once(
            f"{where}: not read: {_listed(unread)}. Text is read from .jsonl (also .ndjson, and .json with an object "
            "on each line), .parquet, and .txt in a folder of its own; .jsonl and .txt may be compressed as .gz, .zst, "
            ".xz or .bz2. Convert files that are data; hide the others with a dot before the name."
        )


def _matches(system: fsspec.AbstractFileSystem, pattern: str) -> list[str]:
    parts = pattern.split("/")
    magic = [any(character in part for character in "*?[") for part in parts]
    if not any(magic):
        return []
    files = sorted(file for file, info in system.glob(pattern, detail=True).items() if info["type"] != "directory")
    first = magic.index(True)
    if any(is_hidden(part) for part in parts[first:]):
        return files
    return list(_below("/".join(parts[:first]), files))


def _below(root: str, files: Iterable[str]) -> Iterator[str]:
    return (file for file in files if not any(map(is_hidden, _relative(file, root).split("/"))))


def _relative(file: str, root: str) -> str:
    return file.removeprefix(root).lstrip("/")


def _url(system: fsspec.AbstractFileSystem, file: str, path: str | Path) -> str:
    return system.unstrip_protocol(file) if "://" in str(path) else file


def _is_local(system: fsspec.AbstractFileSystem) -> bool:
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(system, LocalFileSystem)


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
