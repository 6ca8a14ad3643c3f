"""Basis distributions over many domains and their file, written by `dga-domains` for distribution reweighting."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightning_dga.atomic import atomic_write, write_json


@dataclass(frozen=True)
class Basis:
    """N distributions over k domains: the columns of P in distribution reweighting, where domain weights are P w.

    Reweighting the N entries of w costs N + 1 gradients for any number of domains (arXiv 2410.02498).

    Attributes:
        names: Names of the N distributions, such as those of the reference sets whose histograms they are.
        matrix: ``[k, N]`` float64, each column summing to one.
    """

    names: tuple[str, ...]
    matrix: NDArray[np.float64]

    @property
    def columns(self) -> dict[str, NDArray[np.float64]]:
        """Each distribution, ``[k]``, by its name."""
        return dict(zip(self.names, self.matrix.T, strict=True))

    def save(self, file: Path) -> None:
        """Writes the matrix to a ``.npy`` file, and the names to ``<stem>.names.json`` beside it."""
        with atomic_write(file) as stream:
            np.save(stream, self.matrix)
        write_json(_names(file), list(self.names))

    @classmethod
    def load(cls, file: Path) -> "Basis":
        """Reads what :meth:`save` wrote.

        Raises:
            FileNotFoundError: If one of the two files does not exist.
            ValueError: If a file is damaged, or the names do not match the columns.
        """
        if not (file.is_file() and _names(file).is_file()):
            raise FileNotFoundError(
                f"There is no basis {file} with {_names(file).name}; `dga-domains basis` makes one."
            )
        try:
            names = tuple(json.loads(_names(file).read_text(encoding="utf-8")))
            matrix = np.load(file, allow_pickle=False)
        except (ValueError, EOFError, TypeError) as error:
            raise ValueError(f"{file} or {_names(file).name} is damaged ({error}); make both again.") from error
        if matrix.ndim != 2 or matrix.shape[1] != len(names):
            raise ValueError(
                f"{file} has shape {matrix.shape}, and {_names(file).name} names {len(names)} columns; make both again "
                "with `dga-domains basis`."
            )
        return cls(names, matrix)


def _names(file: Path) -> Path:
    return file.with_suffix(".names.json")
