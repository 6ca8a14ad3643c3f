"""An array on disk that is filled row by row, and stays usable if the process is killed."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightning_dga.atomic import write_json
from lightning_dga.domains.kept import read_json


class ResumableArray:
    """A ``.npy`` file of float32, filled row by row.

    Args:
        file: The array's file. What an earlier process filled of it is kept.
        shape: Of the whole array, ``[n, d]``.
        progress: The file that says how many rows are done.
    """

    def __init__(self, file: Path, shape: tuple[int, int], progress: Path) -> None:
        self._progress = progress
        self.done: int = read_json(progress)["rows"] if progress.is_file() and file.is_file() else 0
        mode = "r+" if self.done else "w+"
        self._array = np.lib.format.open_memmap(file, mode, dtype=np.float32, shape=None if self.done else shape)
        if self._array.shape != shape:
            raise ValueError(f"{file} has shape {self._array.shape}, expected {shape}.")

    def append(self, rows: NDArray[np.float32]) -> None:
        """Writes the next rows, ``[m, d]``; they count once they are on disk."""
        self._array[self.done : self.done + len(rows)] = rows
        self._array.flush()
        self.done += len(rows)
        write_json(self._progress, {"rows": self.done})
