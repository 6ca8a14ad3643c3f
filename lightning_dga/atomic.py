"""Atomic file writes: a file appears complete or not at all, even if a process is killed or several race."""

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_BLOCK = 1 << 16


@contextmanager
def atomic_write(file: Path) -> Iterator[BinaryIO]:
    """Opens a binary stream whose content replaces ``file`` at the end of the block; creates its folder.

    Args:
        file: The file to write. It is unchanged until the end of the block, and if the block raises.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    # a random name, because processes on several machines can have the same process id
    temporary = file.with_name(f"{file.name}-{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            # the content must be on disk before the name refers to it, in case of a power failure
            os.fsync(stream.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def flush_to_disk(path: Path) -> None:
    """Waits until a file, or all files of a folder, are flushed to disk."""
    for file in [path, *path.rglob("*")]:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            with suppress(OSError):  # some filesystems do not support it, or not for folders
                os.fsync(descriptor)
        finally:
            os.close(descriptor)


def append_whole(file: Path, lines: str) -> None:
    """Appends lines to a text file, or leaves it unchanged if they cannot all be written.

    Args:
        file: The file; created if it does not exist. An incomplete last line is removed first.
        lines: Complete lines, each with its newline.
    """
    with file.open("a+b") as stream:
        stream.truncate(_end_of_lines(stream))
        end = stream.seek(0, os.SEEK_END)
        try:
            stream.write(lines.encode())
            stream.flush()
        except OSError:
            with suppress(OSError):
                stream.truncate(end)
            raise


def _end_of_lines(stream: BinaryIO) -> int:
    end = stream.seek(0, os.SEEK_END)
    while end > 0:
        start = max(end - _BLOCK, 0)
        stream.seek(start)
        if (place := stream.read(end - start).rfind(b"\n")) >= 0:
            return start + place + 1
        end = start
    return 0


def write_arrays(file: Path, **arrays: Any) -> None:
    """Writes numpy arrays to an ``.npz`` file with :func:`atomic_write`."""
    with atomic_write(file) as stream:
        np.savez(stream, allow_pickle=False, **arrays)


def write_json(file: Path, value: Any) -> None:
    """Writes JSON with :func:`atomic_write`."""
    with atomic_write(file) as stream:
        stream.write((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())
