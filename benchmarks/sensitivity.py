"""Target loss of the default rule where one of its settings is another: what is easily got wrong, and what is not.

    python benchmarks/sensitivity.py --root DIR --targets math inaugural
    python benchmarks/sensitivity.py --root DIR --quick       the same columns in about a minute

No prior, so that alignments alone decide. Every cell is a cell of `benchmarks/scenarios.py` with one more override; the
cells of a target share data sample, initialisation and the random numbers by which the sequence of samples is drawn.
"""

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import result
import scenarios
from training import trained

# the default is the one in the middle
SETTINGS = {
    "step_size": (1, 2, 3, 5, 8),
    "ema": (0.02, 0.05, 0.1, 0.3, 1),
    "every_n_steps": (2, 5, 10, 25, 50),
    "probe_batch_size": (1, 2, 4, 8, 16),
}
MIDDLE = 2


@dataclass(frozen=True)
class Cell:
    """A cell of the scenarios, and the setting that is another."""

    of_scenario: scenarios.Cell
    setting: str
    value: float

    def folder(self, runs: Path) -> Path:
        folder = self.of_scenario.folder(runs)
        if self.value == SETTINGS[self.setting][MIDDLE]:
            return folder
        return folder.with_name(f"{folder.name}-{self.setting}{self.value}")


def main() -> None:
    options = arguments()
    cells = list(all_cells(options))
    # with no prior none is counted
    names = {file.stem: 0.0 for file in sorted(options.root.glob("*.jsonl")) if not file.stem.startswith("target_")}
    runs = {cell: (cell.folder(options.runs), overrides(cell, options, names)) for cell in cells}
    unique = {folder: (folder, given) for folder, given in runs.values()}
    metrics = dict(trained(unique, options.jobs))
    found = list(rows(cells, {cell: metrics[folder] for cell, (folder, _) in runs.items()}))
    for row in found:
        settings = f"{row['target']:>12} {row['cap']:>7,} {row['setting']:>17} = {row['at']:<5}"
        print(f"{settings} {row['value']:.3f}  {row['aligning']:.0%} of the time aligning")
    if options.json:
        lists = " ".join(f"--{name} {' '.join(map(str, getattr(options, name)))}" for name in ("targets", "caps"))
        result.write(
            options.json, f"python benchmarks/sensitivity.py --root DIR {lists} --steps {options.steps}", found
        )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of <domain>.jsonl and target_<name>.jsonl")
    parser.add_argument("--targets", nargs="+", default=["math"], metavar="NAME")
    parser.add_argument("--caps", nargs="+", type=int, default=[20_000], metavar="TOKENS", help="per domain")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at once")
    parser.add_argument("--runs", type=Path, default=Path("runs/scenarios"), help="where runs are kept")
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--quick", action="store_true", help="40 steps")
    options = parser.parse_args()
    options.set = []
    if options.quick:
        options.steps = 40
    return options


def all_cells(options: argparse.Namespace) -> Iterator[Cell]:
    for target, cap, (setting, values) in product(options.targets, options.caps, SETTINGS.items()):
        for value in values:
            yield Cell(scenarios.Cell(target, cap, "dga", "none", "auto", 0, 0, options.steps), setting, value)


def overrides(cell: Cell, options: argparse.Namespace, names: dict[str, float]) -> list[str]:
    given = scenarios.overrides(cell.of_scenario, options, names)
    return [*given, f"callbacks.dga.{cell.setting}={cell.value}"]


def rows(cells: list[Cell], metrics: dict[Cell, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for cell in cells:
        found = metrics[cell]
        yield {
            "measure": "sensitivity",
            **{name: getattr(cell.of_scenario, name) for name in ("target", "cap", "steps")},
            "setting": cell.setting,
            "at": cell.value,
            "value": found["test/target_loss"],
            "unit": "nats/token",
            "aligning": found["align_seconds"] / found["wall_seconds"],
        }


if __name__ == "__main__":
    main()
