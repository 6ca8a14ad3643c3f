"""Target loss of the default rule where nobody says how long the run is: what it costs not to know.

    python benchmarks/unknown_length.py --root DIR --targets math inaugural
    python benchmarks/unknown_length.py --root DIR --quick       the same columns in about a minute

Every cell is a cell of `benchmarks/scenarios.py`: once with `max_steps`, and then without any limit, ended at the same
step by a callback of which the rule does not know, for each lookahead. The cells of a target share data sample,
initialisation and the random numbers by which the sequence of samples is drawn.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import result
import scenarios
import training
from training import command, trained

from lightning_dga.exposure import LOOKAHEAD

# everything that QUIET and the scenarios derive from a limit is said again by its number
_OPEN = (
    "trainer.max_steps=-1",
    "trainer.val_check_interval={steps}",
    "data.batches_per_epoch=null",
    "model.max_steps={steps}",
    "+callbacks.stop={stop}",
)


@dataclass(frozen=True)
class Cell:
    """A cell of the scenarios, and how far ahead it is planned; ``None`` where the length is known."""

    of_scenario: scenarios.Cell
    lookahead: float | None

    def folder(self, runs: Path) -> Path:
        folder = self.of_scenario.folder(runs)
        return folder if self.lookahead is None else folder.with_name(f"{folder.name}-lookahead{self.lookahead}")


def main() -> None:
    options = arguments()
    options.runs = options.runs.resolve()
    counted = {target: scenarios.histogram(options, target) for target in options.targets}
    cells = list(all_cells(options))
    metrics = dict(
        trained(
            {cell: (cell.folder(options.runs), overrides(cell, options, counted)) for cell in cells},
            options.jobs,
        )
    )
    found = list(rows(cells, metrics))
    for row in found:
        length = "known" if row["lookahead"] is None else f"lookahead {row['lookahead']}"
        settings = f"{row['target']:>12} {row['cap'] or 'all':>7} {row['prior']:>6} {row['steps']:>5} {length:>15}"
        print(f"{settings} {row['value']:.3f} ({row['passes']:.1f} passes)")
    if options.json:
        result.write(options.json, command("unknown_length", options, "caps", "priors", "lookaheads", "seeds"), found)


def arguments() -> argparse.Namespace:
    parser = training.parser(__doc__, "unknown_length", "40 steps, one cap and the default lookahead")
    parser.add_argument("--caps", nargs="+", type=int, default=[20_000, 0], metavar="TOKENS", help="per domain; 0: all")
    parser.add_argument("--priors", nargs="+", default=["right", "none"], choices=["right", "wrong", "none"])
    parser.add_argument("--lookaheads", nargs="+", type=float, default=[LOOKAHEAD])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    options = parser.parse_args()
    options.set = []
    if options.quick:
        options.steps, options.caps, options.lookaheads = 40, options.caps[:1], [LOOKAHEAD]
    return options


def all_cells(options: argparse.Namespace) -> Iterator[Cell]:
    for target, cap, prior, seed, lookahead in product(
        options.targets, options.caps, options.priors, options.seeds, [None, *options.lookaheads]
    ):
        of_scenario = scenarios.Cell(target, cap or None, "dga", prior, "auto", seed, 0, options.steps)
        yield Cell(of_scenario, lookahead)


def overrides(cell: Cell, options: argparse.Namespace, counted: dict[str, dict[str, float]]) -> list[str]:
    given = scenarios.overrides(cell.of_scenario, options, counted[cell.of_scenario.target])
    if cell.lookahead is None:
        return given
    steps = cell.of_scenario.steps
    stop = f"{{_target_: stop_at.StopAt, step: {steps}}}"
    rule = f"{{_target_: lightning_dga.reweighting.DGA, lookahead: {cell.lookahead}, prior: '${{prior}}'}}"
    given += [override.format(steps=steps, stop=stop) for override in _OPEN]
    return [*given, f"callbacks.dga.rule={rule}", "callbacks.dga.prior=null"]


def rows(cells: list[Cell], metrics: dict[Cell, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for cell in cells:
        found = metrics[cell]
        yield {
            "measure": "unknown_length",
            **{name: getattr(cell.of_scenario, name) for name in ("target", "cap", "prior", "seed", "steps")},
            "lookahead": cell.lookahead,
            "value": found["test/target_loss"],
            "unit": "nats/token",
            "passes": max(found["epochs"].values()),
        }


if __name__ == "__main__":
    main()
