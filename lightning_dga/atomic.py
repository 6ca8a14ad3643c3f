"""Files that appear complete or not at all, also where a process is killed or several race."""

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

_BLOCK = 1 << 16


@contextmanager
def atomic_write(file: Path) -> Iterator[BinaryIO]:
    """Opens a binary stream whose content becomes ``file`` at the end of the block; makes its folder.

    Args:
        file: What to write. Until the end of the block, and if the block raises, it stays as it was.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    # a random name, for processes on several machines may share one number
    temporary = file.with_name(f"{file.name}-{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            # a name must not come to stand for content that a power cut takes away
            os.fsync(stream.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def flush_to_disk(path: Path) -> None:
    """Waits until a file, or all files of a folder, would survive a power cut."""
    for file in [path, *path.rglob("*")]:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            with suppress(OSError):  # some filesystems have no such thing, or not for folders
                os.fsync(descriptor)
        finally:
            os.close(descriptor)


def append_whole(file: Path, lines: str) -> None:
    """Appends lines to a text file, or leaves it as it was where they do not all fit.

    Args:
        file: The file; made where there is none. A last line that was cut short is taken away first.
        lines: Whole lines, each with its end.
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


def write_json(file: Path, value: Any) -> None:
    """Writes JSON with :func:`atomic_write`."""
    with atomic_write(file) as stream:
        stream.write((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())
