"""What mixing for one target costs elsewhere: the loss on held-out documents of all domains, beside the target's.

    python benchmarks/forgetting.py --root DIR --targets math inaugural
    python benchmarks/forgetting.py --root DIR --quick       the same columns in about a minute

Every tenth block of ten documents of each domain is held out. The rest is a pool for cells as those of
`benchmarks/scenarios.py`, and the general loss is the mean of the domains' losses of a token.
"""

import argparse
import json
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import held_out_loss, result, scenario, training
from common.blocks import split
from common.training import command, trained

EVERY = 10
METHODS = ("uniform", "mix15", "mix30", "importance", "water_filling", "dga")


def main() -> None:
    options = arguments()
    files = hold_out(options.root, options.runs)
    options.root = options.runs / "pool"
    counted = {target: scenario.histogram(options, target) for target in options.targets}
    callback = (
        f"+callbacks.general={{_target_: common.held_out_loss.HeldOutLoss, files: [{', '.join(map(str, files))}]}}"
    )
    cells = list(all_cells(options))
    runs = {c: (c.folder(options.runs), [*scenario.overrides(c, options, counted[c.target]), callback]) for c in cells}
    metrics = dict(trained(runs, options.jobs))
    found = list(rows(cells, options.runs, metrics))
    for row in found:
        print(f"{row['target']:>12} {row['rule']:>14}  target {row['value']:.3f}  general {row['general']:.3f}")
    if options.json:
        result.write(options.json, command("forgetting", options, "cap"), found)


def arguments() -> argparse.Namespace:
    parser = training.parser(__doc__, "forgetting", "40 steps")
    parser.add_argument("--cap", type=int, default=20_000, metavar="TOKENS", help="per domain")
    options = parser.parse_args()
    options.runs, options.set = options.runs.resolve(), []
    if options.quick:
        options.steps = 40
    return options


def hold_out(root: Path, runs: Path) -> list[Path]:
    """Splits a folder's domains into a pool and what is held out; the files of the latter."""
    pool, general = runs / "pool", runs / "general"
    pool.mkdir(parents=True, exist_ok=True)
    general.mkdir(exist_ok=True)
    for file in sorted(root.glob("*.jsonl")):
        if file.stem.startswith("target_"):
            shutil.copy(file, pool)
            continue
        for folder, lines in zip((pool, general), split(file, EVERY), strict=True):
            (folder / file.name).write_text("".join(lines), encoding="utf-8")
    return sorted(general.glob("*.jsonl"))


def all_cells(options: argparse.Namespace) -> Iterator[scenario.Cell]:
    for target in options.targets:
        for name in METHODS:
            prior = "none" if name == "uniform" else "right"
            estimator = "none" if scenario.is_fixed(name) else "auto"
            yield scenario.Cell(target, options.cap, name, prior, estimator, 0, 0, options.steps)


def rows(cells: list[scenario.Cell], runs: Path, metrics: dict[scenario.Cell, Any]) -> Iterator[dict[str, Any]]:
    for cell in cells:
        general = json.loads((cell.folder(runs) / held_out_loss.FILE).read_text())
        yield {
            "measure": "forgetting",
            **{name: getattr(cell, name) for name in ("target", "cap", "prior", "steps")},
            "rule": cell.method,
            "value": metrics[cell]["test/target_loss"],
            "general": statistics.mean(general.values()),
            "by_domain": general,
            "unit": "nats/token",
        }


if __name__ == "__main__":
    main()
