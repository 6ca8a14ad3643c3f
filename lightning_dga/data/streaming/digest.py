"""A short digest of a sample, by which ranks check that they read the same one."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor


def digest(sample: Any) -> bytes:
    """A digest that is equal for equal samples in any process; for objects of unknown types it covers only the type."""
    hashed = hashlib.blake2b(digest_size=8)
    _add(sample, hashed)
    return hashed.digest()


def _add(value: Any, hashed: Any) -> None:
    hashed.update(type(value).__name__.encode())
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = value.float().numpy() if value.is_floating_point() else value.numpy()
    if isinstance(value, np.ndarray) and value.dtype != object:
        hashed.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        for key, item in value.items():
            hashed.update(repr(key).encode())
            _add(item, hashed)
    elif isinstance(value, list | tuple):
        for item in value:
            _add(item, hashed)
    elif isinstance(value, bytes | bytearray):
        hashed.update(value)
    elif isinstance(value, str | int | float | complex | bool | np.generic | None):
        hashed.update(repr(value).encode("utf-8", "surrogatepass"))
