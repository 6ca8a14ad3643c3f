"""Arrays kept in a file that several processes may write and read at once."""

import logging
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightning_dga.atomic import atomic_write

_logger = logging.getLogger(__name__)


def save_arrays(file: Path, arrays: Mapping[str, NDArray]) -> None:
    """Writes arrays to a file atomically, also if several processes write it; creates its folder."""
    with atomic_write(file) as stream:
        np.savez(stream, allow_pickle=False, **arrays)


def load_arrays(file: Path) -> dict[str, NDArray] | None:
    """Reads what :func:`save_arrays` wrote, checksums verified; ``None`` if there is no such file, or it is damaged."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        _logger.warning("%s is damaged (%s); making it again.", file, error)
        return None
