"""Finished parts of long work, kept until all of it is finished."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_dga.atomic import atomic_write
from lightning_dga.domains.kept import read_arrays

Arrays = dict[str, NDArray[Any]]


class Checkpoint:
    """A folder of finished parts.

    Args:
        folder: The folder; ``None`` keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def has(self, part: str) -> bool:
        """Whether a part is finished, by this process or an earlier one."""
        return self._folder is not None and self._file(part).is_file()

    def kept(self, part: str, make: Callable[[], Arrays]) -> Arrays:
        """The arrays of a part: read if it was finished before, else made and kept."""
        if self.has(part):
            return read_arrays(self._file(part))
        arrays = make()
        if self._folder is not None:
            with atomic_write(self._file(part)) as stream:
                np.savez(stream, allow_pickle=False, **arrays)
        return arrays

    def _file(self, part: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{part}.npz"
