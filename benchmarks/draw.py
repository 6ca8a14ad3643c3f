"""Draws the tables of `docs/results/` from `benchmarks/results/*.json`.

python benchmarks/draw.py
"""

import json
import re
from pathlib import Path
from typing import Any

from common import loss_columns, loss_plots, stream_columns

HERE = Path(__file__).parent
Row = dict[str, Any]

SETTING = {
    "model": "model",
    "tokens a sequence": "length",
    "domains": "k",
    "precision": "precision",
}


def error_along_training(row: Row) -> str:
    """The largest error of what was measured, and how much was refused."""
    if row["value"] is None:
        return "refused"
    refused = f" ({row['refused']} of {row['measurements']} refused)" if row["refused"] else ""
    return f"{row['value']:.0e}{refused}"


# measures whose rows differ in the estimator alone: a column for each
BY_ESTIMATOR: dict[str, tuple[dict[str, Any], Any]] = {
    "overhead": (SETTING, lambda row: "refused" if row["value"] is None else f"{row['value']:.2%}"),
    "end_to_end": (SETTING, lambda row: f"{row['value']:.2%} ({row['spread'][0]:.1%} to {row['spread'][1]:.1%})"),
    "memory": (SETTING, lambda row: f"{row['value']:.3f}"),
    "error": (SETTING, lambda row: "refused" if row["value"] is None else f"{row['value']:.0e}"),
    "error_along_training": (
        {"model": "model", "precision": "precision", "tolerance": lambda row: f"{row['tolerance']:.0e}"},
        error_along_training,
    ),
    "rounding": ({"model": "model", "precision": "precision"}, lambda row: f"{row['value']:.0e}"),
}
CAPTIONS = {
    "error_along_training": "Largest error of all measurements along training, over all seeds, relative to the norm of "
    "the alignments: in single precision against float64 gradients by definition, in half precision against `backward` "
    "in the same precision and relative to the squared norm of the target gradient where that is larger. An estimator "
    "that refuses gives way to `backward` for the rest of the run",
    "rounding": "What half precision itself does: `backward` against float64 gradients of the same parameters, in the "
    "same units",
    "overhead": "Share of training that aligning every 100 steps takes (training batches of 64 sequences, probes of 4 "
    "sequences for each domain, 8 target sequences)",
    "auto_against_best": "`auto` against the best of those that measure the same samples",
    "end_to_end": "What the callback adds to the same training without it, as far as noise allows: median, least, most",
    "memory": "Extra peak memory of training, in gradients: the most bytes that tensors hold at once, beyond those "
    "of the same training without the callback",
    "information": "Standard error of the averaged alignments after 1,000 steps, in squared norms of the target "
    "gradient, at the period at which updates take a share of training",
    "import": "Processor time of a fresh process beyond that of one that imports nothing, median, and which large "
    "packages it loads",
    "error": "Largest error, relative to the largest alignment, against float64 gradients by definition",
}
COLUMNS = {
    "auto_against_best": {
        **SETTING,
        "best": "best",
        "time of training": lambda row: f"{row['value']:.4f}",
        "time of updates": lambda row: f"{row['of_updates']:.2f}",
    },
    "import": {
        "part": lambda row: f"`{row['part']}`",
        "processor time, s": lambda row: f"{row['value']:.2f}",
        "least, most": lambda row: f"{row['spread'][0]:.2f}, {row['spread'][1]:.2f}",
        "loads": lambda row: ", ".join(row["loads"]) or "-",
    },
    "domains": {
        "stage": "stage",
        "library": "library",
        "documents": lambda row: f"{row['documents']:,}",
        "clusters made": lambda row: f"{row['made']:,}" if "made" in row else "-",
        "with one document": lambda row: f"{row['singletons']:,}" if "singletons" in row else "-",
        "documents in the largest": lambda row: f"{row['largest']:,}" if "largest" in row else "-",
        "wall time, s": lambda row: f"{row['value']:.0f}",
        "processor time, s": lambda row: f"{row['cpu']:.0f}",
        "peak memory, GB": lambda row: f"{row['memory'] / 1e9:.2f}",
    },
    "information": {
        **SETTING,
        "estimator": "estimator",
        "samples of a domain": "probe",
        "of the target": "target",
        "update, steps": lambda row: f"{row['update']:.2f}",
        "share of training": lambda row: f"{row['share']:.1%}",
        "period": "period",
        "error after 1,000 steps": lambda row: f"{row['value']:.3g}",
        "by the domains' samples": lambda row: f"{row['by_samples']:.3g}",
    },
    "killed": {
        "stage": "stage",
        "library": "library",
        "kills": "kills",
        "processor time, in that of an undisturbed run": lambda row: f"{row['value']:.2f}",
        "same bits": lambda row: f"{'yes' if row['identical'] else 'no'}: {', '.join(row['compared'])}",
    },
}
COLUMNS |= loss_columns.COLUMNS | stream_columns.COLUMNS
# in units of the gradient: the tensors that collectives take, and what each process sent over the network
COLUMNS |= {
    measure: {
        "strategy": "strategy",
        "ranks": "ranks",
        "k": "k",
        "estimator": "estimator",
        f"{what} per update, P": lambda row: f"{row['value']:.3f}",
        "planned, P": lambda row: f"{row['planned']:.3f}",
    }
    for measure, what in {"bytes": "moved", "wire": "sent by a process"}.items()
}
# those that have several budgets
PLOTTED = ("scenarios",)
LOSS = {"target": "target", "tokens per domain": lambda row: f"{row['cap']:,}" if row["cap"] else "all"}


def main() -> None:
    folder = HERE.parent / "docs" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted((HERE / "results").glob("*.json")):
        found = json.loads(file.read_text())
        (folder / f"{file.stem}.md").write_text(document(file.stem, found), encoding="utf-8")
        if file.stem in PLOTTED:
            loss_plots.draw([row for row in found["rows"] if row["measure"] == "loss"], folder / f"{file.stem}.svg")


def document(name: str, result: dict[str, Any]) -> str:
    machine = ", ".join(f"{key} {value}" for key, value in result["machine"].items())
    parts = [
        f"# {name}",
        f"Drawn by `python benchmarks/draw.py` from `benchmarks/results/{name}.json`, which this command wrote:",
        f"```\n{result['command']}\n```",
        f"Machine: {machine}. Commit: {result['commit']}.",
        *([result["note"]] if "note" in result else []),
        *([f"![Losses of each rule at each budget]({name}.svg)"] if name in PLOTTED else []),
        *(table(measure, [row for row in result["rows"] if row["measure"] == measure]) for measure in measures(result)),
    ]
    return "\n\n".join(parts) + "\n"


def measures(result: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["measure"] for row in result["rows"]))


def table(measure: str, rows: list[Row]) -> str:
    if measure == "loss":
        return losses(rows)
    if measure in BY_ESTIMATOR:
        lines = by_estimator(rows, *BY_ESTIMATOR[measure])
    else:
        columns = COLUMNS[measure]
        lines = [list(columns), *(cells(row, columns) for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    caption = f"{CAPTIONS[measure]}:\n\n" if measure in CAPTIONS else ""
    return caption + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def losses(rows: list[Row]) -> str:
    """A line for each target and budget, a column for each rule: its mean over seeds, and what is behind it."""

    def column(row: Row) -> str:
        named = [row["rule"]]
        prior = row.get("prior")
        named += [f"{prior} prior"] if prior == "wrong" or (prior is not None and row["rule"] == "dga") else []
        named += [row["estimator"]] if row.get("estimator") not in (None, "none", "auto") else []
        return ", ".join(named)

    def found(row: Row) -> str:
        spread = f" ± {row['spread']:.3f}" if row["spread"] is not None else ""
        return f"{row['value']:.3f}{spread} ({row['epochs_of_top_domain']:.0f})"

    def mixed(name: str) -> int:
        found = re.match(r"mix(\d+)", name)
        return int(found[1]) if found else -1

    # mixtures by their number
    names = sorted(dict.fromkeys(map(column, rows)), key=mixed)
    settings: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        settings.setdefault(tuple(cells(row, LOSS)), {})[column(row)] = found(row)
    lines = [[*LOSS, *names], ["---"] * (len(LOSS) + len(names))]
    lines += [[*setting, *(values.get(name, "-") for name in names)] for setting, values in settings.items()]
    head = "Test loss of the target, nats/token, ± std over seeds; in brackets passes over the most repeated domain:"
    return "\n".join([head, "", *(f"| {' | '.join(line)} |" for line in lines)])


def by_estimator(rows: list[Row], columns: dict[str, Any], show: Any) -> list[list[str]]:
    """A line for each setting, a column for each estimator."""
    names = list(dict.fromkeys(row["estimator"] for row in rows))
    settings: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        settings.setdefault(tuple(cells(row, columns)), {})[row["estimator"]] = show(row)
    body = [[*setting, *(found.get(name, "-") for name in names)] for setting, found in settings.items()]
    return [[*columns, *names], *body]


def cells(row: Row, columns: dict[str, Any]) -> list[str]:
    return [cell(row) if callable(cell) else str(row[cell]) for cell in columns.values()]


if __name__ == "__main__":
    main()
