"""The files of a run folder: their names, and how they are read and written."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WEIGHTS = "weights.csv"
METRICS = "metrics.json"
CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"
LOGS = "logs"


class RunFolderError(ValueError):
    """A folder that is not a run folder, or holds a run that would be lost."""


@dataclass(frozen=True)
class WeightsTable:
    """The history of a mixture, as ``weights.csv`` holds it.

    Attributes:
        domains: The k domain names.
        steps: Optimizer steps done at each row.
        versions: Weights version from that row on.
        weights: Weights from that row on, one list of k numbers a row.
        alignments: What they were derived from, likewise; empty strings in the file are NaN here.
    """

    domains: list[str]
    steps: list[int]
    versions: list[int]
    weights: list[list[float]]
    alignments: list[list[float]]


def weights_header(domains: tuple[str, ...]) -> list[str]:
    """The columns of ``weights.csv``."""
    return ["step", "version", *(f"weight/{d}" for d in domains), *(f"alignment/{d}" for d in domains)]


def read_weights(folder: Path) -> WeightsTable:
    """Reads ``weights.csv``.

    Raises:
        RunFolderError: If the folder has none.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise RunFolderError(f"{folder} is not a run folder: it has no {WEIGHTS}.")
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    k = (len(header) - 2) // 2
    return WeightsTable(
        domains=[name.removeprefix("weight/") for name in header[2 : 2 + k]],
        steps=[int(row[0]) for row in rows],
        versions=[int(row[1]) for row in rows],
        weights=[[float(value) for value in row[2 : 2 + k]] for row in rows],
        alignments=[[float(value or "nan") for value in row[2 + k :]] for row in rows],
    )


def read_metrics(folder: Path) -> dict[str, Any]:
    """Reads ``metrics.json``.

    Raises:
        RunFolderError: If the folder has none, as while the run is not finished.
    """
    path = folder / METRICS
    if not path.is_file():
        raise RunFolderError(f"{folder} has no {METRICS}: it is not a run folder, or the run has not finished.")
    metrics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return metrics


def find_runs(paths: list[Path]) -> list[Path]:
    """The run folders among some paths, and directly below them.

    Raises:
        RunFolderError: If a path holds none.
    """
    runs: list[Path] = []
    for path in paths:
        found = [path] if (path / WEIGHTS).is_file() else sorted(p.parent for p in path.glob(f"*/{WEIGHTS}"))
        if not found:
            raise RunFolderError(f"{path} is not a run folder and holds none (no {WEIGHTS}).")
        runs += found
    return runs
