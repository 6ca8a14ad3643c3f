"""The files of a run folder: their names, and how they are read and written."""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WEIGHTS = "weights.csv"
VALIDATIONS = "validations.csv"
METRICS = "metrics.json"
CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"
LOGS = "logs"
PAGE = "report.html"
LOCK = ".lock"
_NEEDED = {"steps", "unit", "tokens"}


class RunFolderError(ValueError):
    """A folder that is not a run folder, or that contains a run which would be overwritten."""


@dataclass(frozen=True)
class WeightsTable:
    """The history of a mixture, as stored in ``weights.csv``.

    Attributes:
        domains: The k domain names.
        steps: Number of optimizer steps done at each row.
        versions: Weights version from that row on.
        weights: Weights from that row on, k numbers per row.
        alignments: Alignments from which they were derived, k numbers per row; empty cells are NaN.
        left_out: Number of damaged rows, as left by a full disk or a kill.
    """

    domains: list[str]
    steps: list[int]
    versions: list[int]
    weights: list[list[float]]
    alignments: list[list[float]]
    left_out: int = 0


def weights_header(domains: tuple[str, ...]) -> list[str]:
    """The columns of ``weights.csv``."""
    return ["step", "version", *(f"weight/{d}" for d in domains), *(f"alignment/{d}" for d in domains)]


def read_weights(folder: Path) -> WeightsTable:
    """Reads ``weights.csv``, without damaged rows.

    Raises:
        RunFolderError: If the folder has no such file, or the file is not a history of weights.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise RunFolderError(f"{folder} is not a run folder: it has no {WEIGHTS}.")
    try:
        header, rows, left_out = read_rows(path)
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror}.") from error
    domains = [name.removeprefix("weight/") for name in header if name.startswith("weight/")]
    if header != weights_header(tuple(domains)):
        raise RunFolderError(f"{path} cannot be read: its header is not that of a history of weights.")
    k = len(domains)
    return WeightsTable(
        domains=domains,
        steps=[int(row[0]) for row in rows],
        versions=[int(row[1]) for row in rows],
        weights=[[float(value) for value in row[2 : 2 + k]] for row in rows],
        alignments=[[float(value or "nan") for value in row[2 + k :]] for row in rows],
        left_out=left_out,
    )


def read_rows(path: Path) -> tuple[list[str], list[list[str]], int]:
    """Reads a CSV table of numbers, without damaged rows.

    Args:
        path: A file whose first line names the columns. Cells of columns ``alignment/…`` may be empty; those of
            ``step`` and ``version`` are integers.

    Returns:
        The column names, the complete rows, and the number of other rows.
    """
    # a kill or a full disk may truncate a character, a number or a line
    text = path.read_text(encoding="utf-8", errors="replace").replace("\0", "\ufffd")
    lines = list(io.StringIO(text, newline=""))
    torn = bool(lines) and not lines[-1].endswith("\n")
    rest = iter(lines[:-1] if torn else lines)
    header = next(csv.reader(rest), [])
    rows = [_cells(line) for line in rest if line.strip()]
    kept = [row for row in rows if len(row) == len(header) and all(map(_is_number, header, row))]
    return header, kept, len(rows) - len(kept) + torn


def _cells(line: str) -> list[str]:
    # line by line: numbers need no quotes, and a stray one would swallow the lines after it
    try:
        return next(csv.reader([line]))
    except csv.Error:
        return []


def _is_number(column: str, value: str) -> bool:
    if not value:
        return column.startswith("alignment/")
    try:
        int(value) if column in ("step", "version") else float(value)
    except ValueError:
        return False
    return True


def read_validations(folder: Path) -> list[tuple[int, float]]:
    """Steps and losses of the validations in ``validations.csv``; empty if there is no such file."""
    path = folder / VALIDATIONS
    rows = read_rows(path)[1] if path.is_file() else []
    return [(int(row[0]), float(row[1])) for row in rows]


def read_metrics(folder: Path) -> dict[str, Any]:
    """Reads ``metrics.json``.

    Raises:
        RunFolderError: If the folder has no such file, as in an unfinished run, or it cannot be read.
    """
    path = folder / METRICS
    if not path.is_file():
        raise RunFolderError(f"{folder} has no {METRICS}: it is not a run folder, or the run has not finished.")
    try:
        metrics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # not JSON, or not text at all
        raise RunFolderError(f"{path} cannot be read: {error}") from error
    if missing := _NEEDED.difference(metrics if isinstance(metrics, dict) else ()):
        raise RunFolderError(f"{path} is not a {METRICS} of this package: it has no {', '.join(sorted(missing))}.")
    return metrics


def find_runs(paths: list[Path]) -> list[Path]:
    """Finds the run folders among some paths and directly below them.

    Raises:
        RunFolderError: If a path contains none.
    """
    runs: list[Path] = []
    for path in paths:
        found = [path] if (path / WEIGHTS).is_file() else sorted(p.parent for p in path.glob(f"*/{WEIGHTS}"))
        if not found:
            raise RunFolderError(f"{path} is not a run folder and contains none (no {WEIGHTS}).")
        runs += found
    return runs
