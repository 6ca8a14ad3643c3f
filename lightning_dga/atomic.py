"""Files that appear complete or not at all, also where a process is killed or several race."""

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


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


def write_json(file: Path, value: Any) -> None:
    """Writes JSON with :func:`atomic_write`."""
    with atomic_write(file) as stream:
        stream.write((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())
