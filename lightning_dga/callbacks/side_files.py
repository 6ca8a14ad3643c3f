"""Files beside a run's checkpoints: an ``OSError`` on one of them does not end training."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_dga._lightning import WarningCache

_warned = WarningCache()


@contextmanager
def side_file(file: Path) -> Iterator[None]:
    """Turns an ``OSError`` of the block, such as a full disk, into a warning, given once per file.

    Args:
        file: The file that the block reads or writes, for the message.
    """
    try:
        yield
    except OSError as error:
        _warned.warn(
            f"{file} cannot be written: {error.strerror or error}. Training continues, and the file is incomplete."
        )
