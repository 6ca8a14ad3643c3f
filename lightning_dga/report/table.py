"""A table that compares runs."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_dga.report.run_folder import METRICS, RunFolderError, read_metrics

# there may be up to 262,144 domains; nobody reads more rows than this
MOST_DOMAINS = 30


@dataclass(frozen=True)
class Row:
    """One line of a comparison.

    Attributes:
        label: Name of the row.
        cells: One cell per run.
        part: Whether the row is a part of the last row before it that is not a part.
    """

    label: str
    cells: list[str]
    part: bool = False


@dataclass(frozen=True)
class Comparison:
    """A table with a column for each run.

    Attributes:
        names: The heads of the columns.
        rows: The rows.
    """

    names: list[str]
    rows: list[Row]

    def text(self) -> str:
        """The table in plain text, with aligned columns."""
        lines = [("", self.names), *(("  " * row.part + row.label, row.cells) for row in self.rows)]
        label = max(len(name) for name, _ in lines)
        widths = [max(len(cells[i]) for _, cells in lines) for i in range(len(self.names))]
        head, *body = (
            f"{name:<{label}}  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
            for name, cells in lines
        )
        return "\n".join([head, "-" * len(head), *body])


def comparison(runs: list[Path]) -> str:
    """A text table with a column for each run: losses, tokens of each domain, and time spent aligning.

    Args:
        runs: Run folders. One that has not finished has a column of dashes.

    Raises:
        RunFolderError: If a ``metrics.json`` cannot be read.
    """
    return compare(runs).text()


def compare(runs: list[Path]) -> Comparison:
    """The table of :func:`comparison`, before it is formatted.

    With more than :data:`MOST_DOMAINS` domains, the most sampled ones have a row each, and the others share one.
    """
    metrics, reasons = zip(*(metrics_if_whole(run) for run in runs), strict=True)
    finished = [m for m in metrics if m is not None]
    names = [f"{name} ({why})" if why else name for name, why in zip(run_names(runs), reasons, strict=True)]
    rows = [
        Row("target test loss", [_number(m, "test/target_loss", ".4f") for m in metrics]),
        Row("target val loss", [_number(m, "val/target_loss", ".4f") for m in metrics]),
        Row("best", [_number(m, "val/target_loss/best", ".4f") for m in metrics], part=True),
        Row("optimizer steps", [_number(m, "steps", ",") for m in metrics]),
    ]
    if finished:
        rows += _drawn(metrics, finished)
    rows += [
        Row("time, s", [_number(m, "wall_seconds", ".1f") for m in metrics]),
        Row("aligning, s", [_number(m, "align_seconds", ".1f") for m in metrics], part=True),
    ]
    return Comparison(names, rows)


def run_names(runs: list[Path]) -> list[str]:
    """Names for some runs: those of their folders, or as much of the paths as makes them unique."""
    paths = [run.resolve() for run in runs]
    if len({path.name for path in paths}) == len(set(paths)):
        return [path.name for path in paths]
    return [path.relative_to(common_parent(runs)).as_posix() for path in paths]


def common_parent(runs: list[Path]) -> Path:
    """The folder that all the run folders are below.

    Raises:
        RunFolderError: If there is none, as on two drives.
    """
    try:
        return Path(os.path.commonpath([run.resolve().parent for run in runs]))
    except ValueError as error:
        raise RunFolderError("The runs have no parent folder in common; report them separately.") from error


def metrics_if_whole(run: Path) -> tuple[dict[str, Any] | None, str]:
    """The contents of ``metrics.json``; or None, and why: not written yet, or unreadable."""
    if not (run / METRICS).is_file():
        return None, "unfinished"
    try:
        return read_metrics(run), ""
    except RunFolderError:
        return None, f"{METRICS} is damaged"


def _drawn(metrics: Sequence[dict[str, Any] | None], finished: list[dict[str, Any]]) -> list[Row]:
    units = "/".join(dict.fromkeys(m["unit"] for m in finished))
    totals: dict[str, int] = {}
    for m in finished:
        for domain, tokens in m["tokens"].items():
            totals[domain] = totals.get(domain, 0) + tokens
    shown, others = largest(totals)
    rows = [
        Row(f"{units} drawn", ["-" if m is None else format(sum(m["tokens"].values()), ",") for m in metrics]),
        *(Row(domain, [_share(m, [domain]) for m in metrics], part=True) for domain in shown),
    ]
    if others:
        rows.append(Row(others_label(len(others)), [_share(m, others) for m in metrics], part=True))
    return rows


def largest(sizes: dict[str, Any], most: int = MOST_DOMAINS) -> tuple[list[str], list[str]]:
    """Splits domains into those that get a row of their own and the others.

    Args:
        sizes: The size of each domain.
        most: Maximum number of rows.

    Returns:
        The domains to show, in their order if that is all of them, else the largest first; and the others.
    """
    if len(sizes) <= most:
        return list(sizes), []
    ranked = sorted(sizes, key=lambda domain: -sizes[domain])
    return ranked[:most], ranked[most:]


def others_label(count: int) -> str:
    """The label of the row that the other domains share."""
    return f"{count:,} other domain{'s' * (count != 1)}"


def _share(metrics: dict[str, Any] | None, domains: list[str]) -> str:
    if metrics is None:
        return "-"
    tokens = sum(metrics["tokens"].get(domain, 0) for domain in domains)
    return f"{tokens:,} ({tokens / max(sum(metrics['tokens'].values()), 1):4.0%})"


def _number(metrics: dict[str, Any] | None, name: str, form: str) -> str:
    value = None if metrics is None else metrics.get(name)
    return "-" if value is None else format(value, form)
