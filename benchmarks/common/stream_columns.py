"""How the figures of `benchmarks/stream.py` are shown."""

from collections.abc import Callable
from typing import Any

Row = dict[str, Any]


def number(row: Row) -> str:
    """The figure, or why there is none."""
    return row["reason"] if row["value"] is None else shown(row["value"])


def spread(row: Row) -> str:
    """The least and the most."""
    return "-" if row["spread"] is None else " to ".join(map(shown, row["spread"]))


def share(row: Row) -> str:
    return f"{row['value']:.1%}"


def share_spread(row: Row) -> str:
    return " to ".join(f"{value:.1%}" for value in row["spread"])


def shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def against_torch(what: str) -> dict[str, str | Callable[[Row], str]]:
    return {"samples": "samples", what: lambda row: f"{row['value']:.2f}", "least to most": spread}


def domains(row: Row) -> str:
    return f"{row['k']:,}"


def beside_peers(what: str) -> dict[str, str | Callable[[Row], str]]:
    return {"domains": domains, "": "peer", what: number, "least to most": spread}


COLUMNS: dict[str, dict[str, str | Callable[[Row], str]]] = {
    "composition": {**beside_peers("composition alone: samples/s of processor time"), "samples at once": "batch"},
    "update": {"domains": domains, "sampling": "sampling", "new weights: ms to": "what", "": number, " ": spread},
    "state": {"domains": domains, "sampling": "sampling", "after updates": "updates", "state, MiB": number},
    "distance": {
        "domains": domains,
        "sampling": "sampling",
        "samples drawn": lambda row: f"{row['samples']:,}",
        "furthest that any domain ever was from its ideal, samples": number,
    },
    "chi_square": {
        "domains": domains,
        "sampling": "sampling",
        "chi-square of the counts, in standard deviations from its mean": number,
    },
    "staleness_cost": {
        "domains": domains,
        "batches between updates": "period",
        "share of the loader's processor time that `max_staleness=0` costs": share,
        "least to most": share_spread,
    },
    "loader": beside_peers("loader, 2 workers, batches of 32: samples/s by the clock"),
    "cpu": beside_peers("µs of processor time of a batch, all processes together"),
    "main": beside_peers("µs of processor time of a batch, main process"),
    "start": beside_peers("s to the first batch"),
    "resident": beside_peers("MiB of memory, workers included"),
    "samples_clock": against_torch("samples/s by the clock, of torch's DataLoader with a WeightedRandomSampler"),
    "samples_cpu": against_torch("samples for a second of processor time of all processes, of torch's"),
    "ability": {"": "peer", "by its documentation and source": "ability", "can": "value"},
    "memory_growth": {
        "what": "what",
        "batches": lambda row: f"{row['batches']:,}",
        "workers": "workers",
        "MiB after a tenth of them": lambda row: shown(row["first"]),
        "MiB more at the end": number,
    },
    "file_growth": {
        "what": "what",
        "batches": lambda row: f"{row['batches']:,}",
        "open files after a tenth of them": "first",
        "more at the end": number,
    },
}
