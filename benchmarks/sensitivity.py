"""Target loss of the default rule where one of its settings is another: what is easily got wrong, and what is not.

    python benchmarks/sensitivity.py --root DIR --targets math inaugural
    python benchmarks/sensitivity.py --root DIR --quick       the same columns in about a minute

No prior, so that alignments alone decide. Every cell is a cell of `benchmarks/scenarios.py` with one more override; the
cells of a target share data sample, initialisation and the random numbers by which the sequence of samples is drawn.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from common import result, scenario, training
from common.training import command, trained

from lightning_dga.data.text import folder_domains

# around the default of each
SETTINGS = {
    "step_size": (1, 2, 3, 5, 8),
    "ema": (0.02, 0.05, 0.1, 0.3, 1),
    "every_n_steps": (2, 5, 10, 25, 50),
    "probe_batch_size": (1, 2, 4, 8, 16),
}


@dataclass(frozen=True)
class Cell:
    """A cell of the scenarios, and the setting that is another."""

    of_scenario: scenario.Cell
    setting: str
    value: float

    def folder(self, runs: Path) -> Path:
        folder = self.of_scenario.folder(runs)
        return folder.with_name(f"{folder.name}-{self.setting}{self.value}")


def main() -> None:
    options = arguments()
    cells = list(all_cells(options))
    # with no prior none is counted
    names = dict.fromkeys(folder_domains(options.root), 0.0)
    metrics = dict(
        trained({cell: (cell.folder(options.runs), overrides(cell, options, names)) for cell in cells}, options.jobs)
    )
    found = list(rows(cells, metrics))
    for row in found:
        settings = f"{row['target']:>12} {row['cap']:>7,} {row['setting']:>17} = {row['at']:<5}"
        print(f"{settings} {row['value']:.3f}  {row['aligning']:.0%} of the time aligning")
    if options.json:
        result.write(options.json, command("sensitivity", options, "caps"), found)


def arguments() -> argparse.Namespace:
    parser = training.parser(__doc__, "sensitivity", "40 steps")
    parser.add_argument("--caps", nargs="+", type=int, default=[20_000], metavar="TOKENS", help="per domain")
    options = parser.parse_args()
    options.set = []
    if options.quick:
        options.steps = 40
    return options


def all_cells(options: argparse.Namespace) -> Iterator[Cell]:
    for target, cap, (setting, values) in product(options.targets, options.caps, SETTINGS.items()):
        for value in values:
            yield Cell(scenario.Cell(target, cap, "dga", "none", "auto", 0, 0, options.steps), setting, value)


def overrides(cell: Cell, options: argparse.Namespace, names: dict[str, float]) -> list[str]:
    given = scenario.overrides(cell.of_scenario, options, names)
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
