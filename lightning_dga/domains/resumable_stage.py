"""A resumable stage of long work on a folder, marked when it is complete."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_dga.atomic import write_arrays, write_json
from lightning_dga.domains.errors import DomainsError
from lightning_dga.domains.kept import read_arrays, read_json

Arrays = dict[str, NDArray[Any]]


class ResumableStage:
    """One stage, identified by its name.

    ``<name>.json`` marks the stage as complete and contains its settings; ``<name>.partial`` contains the finished
    parts of an incomplete stage.

    Args:
        folder: The folder of domains.
        name: Name of the stage.
        settings: Everything that the result depends on, as JSON values.
    """

    def __init__(self, folder: Path, name: str, settings: dict[str, Any]) -> None:
        self.folder = folder
        self.name = name
        self.settings = settings
        self.partial = folder / f"{name}.partial"

    def is_whole(self) -> bool:
        """Whether there is nothing left to do.

        Raises:
            DomainsError: If it was made, or begun, with other settings.
        """
        marker = _marker(self.folder, self.name)
        for file in (marker, self.partial / "settings.json"):
            if file.is_file():
                self._compare(read_json(file).get("settings", {}), whole=file == marker)
        return marker.is_file()

    def begin(self) -> None:
        """Makes room for parts."""
        if not (self.partial / "settings.json").is_file():
            write_json(self.partial / "settings.json", {"settings": self.settings})

    def fill(self, file: Path, shape: tuple[int, int], rows: Callable[[int], Iterable[NDArray[np.float32]]]) -> int:
        """Fills a ``.npy`` file of float32, row by row, from where an earlier process left off.

        Args:
            file: The file.
            shape: Shape of the whole array, ``[n, d]``.
            rows: The rows from a given one on, ``[m, d]`` at a time. They count once they are on disk.

        Returns:
            The number of rows that are filled.
        """
        progress = self.partial / "rows.json"
        done: int = read_json(progress)["rows"] if progress.is_file() and file.is_file() else 0
        array = np.lib.format.open_memmap(file, "r+" if done else "w+", dtype=np.float32, shape=None if done else shape)
        if array.shape != shape:
            raise ValueError(f"{file} has shape {array.shape}, expected {shape}.")
        for some in rows(done):
            array[done : done + len(some)] = some
            array.flush()
            done += len(some)
            write_json(progress, {"rows": done})
        return done

    def finish(self, summary: dict[str, Any]) -> None:
        """Marks the stage as complete, with information about it, and removes its parts."""
        write_json(_marker(self.folder, self.name), {"settings": self.settings, **summary})
        shutil.rmtree(self.partial)

    def discard(self) -> None:
        """Removes the mark and the parts."""
        _marker(self.folder, self.name).unlink(missing_ok=True)
        shutil.rmtree(self.partial, ignore_errors=True)

    def _compare(self, made: dict[str, Any], *, whole: bool) -> None:
        for key in sorted(set(made) | set(self.settings)):
            old, new = made.get(key), self.settings.get(key)
            if old != new:
                begun = "made" if whole else "begun"
                raise DomainsError(
                    f"{self.folder}: {self.name!r} was {begun} with {_difference(key, old, new)}. "
                    "Give the same settings, another folder, or --overwrite to make it again."
                )


def kept(folder: Path | None, part: str, make: Callable[[], Arrays]) -> Arrays:
    """The arrays of a part of long work: read if it was finished before, else made and kept."""
    if folder is None:
        return make()
    file = folder / f"{part}.npz"
    if not file.is_file():
        write_arrays(file, **make())
    return read_arrays(file)


def _difference(key: str, old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        # digests of many sources would say nothing to their reader
        changed = sorted(name for name in set(old) | set(new) if old.get(name) != new.get(name))
        return f"other {key} of {', '.join(changed)}"
    return f"{key} = {old!r}, not {new!r}"


def read_summary(folder: Path, name: str) -> dict[str, Any]:
    """What the mark of a whole stage says.

    Raises:
        DomainsError: If the stage is not whole.
    """
    marker = _marker(folder, name)
    if not marker.is_file():
        begun = " was begun and not finished; run it again to go on" if (folder / f"{name}.partial").is_dir() else ""
        raise DomainsError(
            f"{folder}: {name!r}{begun or ' is not done'}: dga-domains {name}. "
            "A folder of domains is made by `dga-domains embed` and then `dga-domains cluster`."
        )
    return read_json(marker)


def _marker(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"
