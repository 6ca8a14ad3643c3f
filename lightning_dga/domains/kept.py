"""Reads the files of a folder of domains, with errors that name a missing or damaged file."""

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lightning_dga.domains.errors import DomainsError

_DAMAGE = (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, RecursionError, KeyError)


def read_array(file: Path, mmap_mode: Literal["r"] | None = None) -> NDArray[Any]:
    """Reads the array of a ``.npy`` file.

    Raises:
        DomainsError: If the file is missing or damaged.
    """
    try:
        return np.load(file, mmap_mode=mmap_mode, allow_pickle=False)
    except _DAMAGE as error:
        raise _damaged(file, error) from error


def read_arrays(file: Path) -> dict[str, NDArray[Any]]:
    """Reads the arrays of a ``.npz`` file; raises as :func:`read_array`."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    except (*_DAMAGE, TypeError, AttributeError) as error:
        raise _damaged(file, error) from error


def read_json(file: Path) -> dict[str, Any]:
    """Reads the object of a ``.json`` file; raises as :func:`read_array`."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except _DAMAGE as error:
        raise _damaged(file, error) from error
    if not isinstance(value, dict):
        raise _damaged(file, f"a JSON {type(value).__name__}")
    return value


def _damaged(file: Path, error: object) -> DomainsError:
    return DomainsError(f"{file} is missing or damaged ({error}); make it again with the same command and --overwrite.")
