"""Finished runs side by side, as text."""

from pathlib import Path
from typing import Any

from lightning_dga.report.run_folder import read_metrics


def comparison(runs: list[Path]) -> str:
    """A table with a column for each run: losses, tokens of each domain, and time spent aligning.

    Args:
        runs: Run folders.

    Raises:
        RunFolderError: If one has no ``metrics.json``.
    """
    metrics = [read_metrics(run) for run in runs]
    domains = list(dict.fromkeys(domain for m in metrics for domain in m["tokens"]))
    rows: list[tuple[str, list[str]]] = [
        ("", [run.name for run in runs]),
        ("target test loss", [_number(m.get("test/target_loss"), ".4f") for m in metrics]),
        ("target val loss", [_number(m.get("val/target_loss"), ".4f") for m in metrics]),
        ("  best", [_number(m.get("val/target_loss/best"), ".4f") for m in metrics]),
        ("optimizer steps", [_number(m["steps"], ",") for m in metrics]),
        (f"{metrics[0]['unit']} drawn", [_number(sum(m["tokens"].values()), ",") for m in metrics]),
        *((f"  {domain}", [_share(m, domain) for m in metrics]) for domain in domains),
        ("time, s", [_number(m["wall_seconds"], ".1f") for m in metrics]),
        ("  aligning, s", [_number(m["align_seconds"], ".1f") for m in metrics]),
    ]
    label = max(len(name) for name, _ in rows)
    widths = [max(len(cells[i]) for _, cells in rows) for i in range(len(runs))]
    lines = [
        f"{name:<{label}}  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        for name, cells in rows
    ]
    rule = "-" * max(map(len, lines))
    return "\n".join([lines[0], rule, *lines[1:]])


def _share(metrics: dict[str, Any], domain: str) -> str:
    tokens = metrics["tokens"].get(domain, 0)
    return f"{tokens:,} ({tokens / max(sum(metrics['tokens'].values()), 1):4.0%})"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
