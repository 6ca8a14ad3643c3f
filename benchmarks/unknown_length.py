"""Target loss of the default rule where nobody says how long the run is: what it costs not to know.

    python benchmarks/unknown_length.py --root DIR --targets math inaugural
    python benchmarks/unknown_length.py --root DIR --quick       the same columns in about a minute

Every cell is a cell of `benchmarks/scenarios.py`: once with `max_steps`, and then without any limit, ended at the same
step by a callback of which the rule does not know, for each lookahead. The cells of a target share data sample,
initialisation and the random numbers by which the sequence of samples is drawn.

Of each lookahead it also tells, with nothing trained, what becomes of a domain that deserves nearly all: its share in a
run without a limit over that in a run of known length, the least of many ends.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from common import result, scenario, training
from common.training import command, trained

from lightning_dga.core.data_budget import LOOKAHEAD, DataBudget
from lightning_dga.reweighting.repetition import EPOCHS, planned_samples, remaining

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

    of_scenario: scenario.Cell
    lookahead: float | None

    def folder(self, runs: Path) -> Path:
        folder = self.of_scenario.folder(runs)
        return folder if self.lookahead is None else folder.with_name(f"{folder.name}-lookahead{self.lookahead}")


def main() -> None:
    options = arguments()
    options.runs = options.runs.resolve()
    counted = {target: scenario.histogram(options, target) for target in options.targets}
    cells = list(all_cells(options))
    metrics = dict(
        trained(
            {cell: (cell.folder(options.runs), overrides(cell, options, counted)) for cell in cells},
            options.jobs,
        )
    )
    found = list(rows(cells, metrics))
    shares = list(share_rows(options.lookaheads))
    for row in shares:
        print(f"lookahead {row['lookahead']}: {row['value']:.2f} of the share with a known length, at least")
    for row in found:
        length = "known" if row["lookahead"] is None else f"lookahead {row['lookahead']}"
        settings = f"{row['target']:>12} {row['cap'] or 'all':>7} {row['prior']:>6} {row['steps']:>5} {length:>15}"
        print(f"{settings} {row['value']:.3f} ({row['passes']:.1f} passes)")
    if options.json:
        result.write(
            options.json, command("unknown_length", options, "caps", "priors", "lookaheads", "seeds"), found + shares
        )


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
        of_scenario = scenario.Cell(target, cap or None, "dga", prior, "auto", seed, 0, options.steps)
        yield Cell(of_scenario, lookahead)


def overrides(cell: Cell, options: argparse.Namespace, counted: dict[str, dict[str, float]]) -> list[str]:
    given = scenario.overrides(cell.of_scenario, options, counted[cell.of_scenario.target])
    if cell.lookahead is None:
        return given
    steps = cell.of_scenario.steps
    stop = f"{{_target_: common.stop_at.StopAt, step: {steps}}}"
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


def share_rows(lookaheads: list[float]) -> Iterator[dict[str, Any]]:
    """Of each lookahead the least share of the best domain, over that with a known length."""
    ends = list(product((2, 3, 10, 50), (4.0, 8.0, 9.6, 12.0, 16.0, 32.0, 64.0)))
    for lookahead in lookaheads:
        ratios = [share(k, passes, lookahead) / share(k, passes, None) for k, passes in ends]
        yield {"measure": "unknown_length_share", "lookahead": lookahead, "value": min(ratios), "unit": "ratio"}


def share(domains: int, passes: float, lookahead: float | None, updates: int = 40, size: float = 100.0) -> float:
    """Share of a domain that deserves 95 %, in a run of so many passes over it if it alone were drawn."""
    sizes, seen = torch.full((domains,), size).double(), torch.zeros(domains).double()
    shares = torch.full((domains,), 0.05 / (domains - 1)).double()
    shares[0] = 0.95
    step = passes * size / updates
    for _ in range(updates):
        now = DataBudget(seen, sizes, None if lookahead is not None else passes * size, ahead=step)
        plan = planned_samples(shares, now, EPOCHS, shares > 0, lookahead or LOOKAHEAD)
        seen = seen + step * remaining(plan, seen)
    return (seen[0] / seen.sum()).item()


if __name__ == "__main__":
    main()
