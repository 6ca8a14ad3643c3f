"""Arrays kept in a file that several processes may write and read at once."""

import logging
import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_logger = logging.getLogger(__name__)


def save_arrays(file: Path, arrays: Mapping[str, NDArray]) -> None:
    """Writes arrays to a file that appears complete or not at all, also where processes race; makes its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f"{file.stem[:16]}-", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)
        os.replace(temporary, file)
    except BaseException:
        os.unlink(temporary)
        raise


def load_arrays(file: Path) -> dict[str, NDArray] | None:
    """Reads what :func:`save_arrays` wrote, every checksum verified; ``None`` if there is no such file or it is damaged."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        _logger.warning("%s is damaged (%s); making it again.", file, error)
        return None
