"""Files beside a run's checkpoints: training never ends because one of them cannot be written."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_dga._lightning import WarningCache

_told = WarningCache()


@contextmanager
def side_file(file: Path) -> Iterator[None]:
    """Lets training go on where the block cannot read or write a file, as on a full disk; says so once for each file.

    Args:
        file: What the block reads or writes, for the message.
    """
    try:
        yield
    except OSError as error:
        _told.warn(f"{file} cannot be written: {error.strerror or error}. Training goes on, and it is not complete.")
