"""Target loss of each rule where generic data is scarce: the paper's first scenario, on a folder of your own text.

    python benchmarks/scenarios.py --root DIR --targets math inaugural
    python benchmarks/scenarios.py --root DIR --quick        the same columns in under a minute
    python benchmarks/scenarios.py --root DIR --caps 20000 --rules uniform dga --priors none --estimators auto in_step

Every cell is what `dga-train experiment=corpora` does, with one thread. Cells of one seed share the data sample and the
initialisation, and those of one order the random numbers by which the sequence of samples is drawn. Finished runs are
kept in `--runs` and not run again, so a benchmark that was stopped goes on. `--orders` repeats cells with the same
sample and initialisation and other sequences: the spread over them is what the benchmark cannot tell apart. It comes
out as `resolution`.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from typing import Any

from common import result, training
from common.scenario import FIXED, MIX, Cell, histogram, is_fixed, overrides
from common.training import command, is_finished, summary, trained

ALIGNING = ("dga", "dga_paper", "doge", "grape", "odm")
WITHOUT_PRIOR = ("uniform", "dga_paper", "doge", "grape", "odm")
# Student's t for a 95 % interval, by degrees of freedom
T95 = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 10: 2.23, 12: 2.18, 15: 2.13, 20: 2.09}


def main() -> None:
    options = arguments()
    cells = list(dict.fromkeys(all_cells(options)))
    priors = {target: histogram(options, target) for target in options.targets}
    if options.finished:
        missing = [cell for cell in cells if not is_finished(cell.folder(options.runs))]
        cells = [cell for cell in cells if cell not in missing]
        print("\n".join(f"not run: {cell}" for cell in missing), file=sys.stderr)
    runs = {cell: (cell.folder(options.runs), overrides(cell, options, priors[cell.target])) for cell in cells}
    losses = dict(trained(runs, options.jobs))
    found = list(rows({cell: losses[cell] for cell in cells}))
    print(table(found))
    if options.json:
        lists = ["caps", "rules", "priors", "estimators", "seeds", "orders"] + ["set"] * bool(options.set)
        finished = " --finished" if options.finished else ""
        result.write(options.json, command("scenarios", options, *lists) + finished, found)


def arguments() -> argparse.Namespace:
    parser = training.parser(__doc__, "scenarios", "one cap, two methods, one seed and 40 steps")
    parser.add_argument(
        "--caps", nargs="+", type=int, default=[10_000, 20_000, 30_000, 0], metavar="TOKENS", help="per domain; 0: all"
    )
    parser.add_argument(
        "--rules", nargs="+", default=[*FIXED, "dga"], type=method, metavar="NAME", help="rules, and mixtures `mixP`"
    )
    parser.add_argument("--priors", nargs="+", default=["right", "wrong", "none"], choices=["right", "wrong", "none"])
    parser.add_argument("--estimators", nargs="+", default=["auto"], metavar="NAME", help="of the rules that align")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--orders", nargs="+", type=int, default=[0], help="sequences for each seed")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of the config, for all cells"
    )
    parser.add_argument("--finished", action="store_true", help="run nothing: what there is so far")
    options = parser.parse_args()
    if options.quick:
        options.caps, options.rules, options.priors = options.caps[:1], ["uniform", "dga"], ["right"]
        options.seeds, options.orders, options.steps = options.seeds[:1], [0, 1], 40
    return options


def method(name: str) -> str:
    if name in (*FIXED, *ALIGNING) or MIX.fullmatch(name):
        return name
    raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join((*FIXED, *ALIGNING))}, mixP")


def all_cells(options: argparse.Namespace) -> Iterator[Cell]:
    for target, cap, name, seed, order in product(
        options.targets, options.caps, options.rules, options.seeds, options.orders
    ):
        for prior, estimator in product(options.priors, options.estimators):
            cell = Cell(target, cap or None, name, prior, estimator, seed, order, options.steps)
            if is_fixed(name):
                cell = replace(cell, estimator="none")
            if name in WITHOUT_PRIOR:
                cell = replace(cell, prior="none")
            elif prior == "none" and is_fixed(name):
                continue
            yield cell


def rows(metrics: Mapping[Cell, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A row of losses for each group of cells that differ in seed and order only, and one of what orders differ by."""
    groups: dict[Cell, dict[Cell, dict[str, Any]]] = {}
    for cell, found in metrics.items():
        groups.setdefault(replace(cell, seed=0, order=0), {})[cell] = found
    for group, found in groups.items():
        yield {
            "measure": "loss",
            "scenario": 1,
            **{name: getattr(group, name) for name in ("target", "cap", "prior", "estimator", "steps")},
            "rule": group.method,
            "seeds": [[cell.seed, cell.order] for cell in found],
            **summary(list(found.values())),
        }
    yield from resolution(metrics)


def resolution(metrics: Mapping[Cell, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Half the 95 % interval of a difference of two means over the seeds, of cells that differ in their order only."""
    by_mixture: dict[Cell, list[float]] = {}
    for cell, found in metrics.items():
        by_mixture.setdefault(replace(cell, order=0), []).append(found["test/target_loss"])
    repeated = [losses for losses in by_mixture.values() if len(losses) > 1]
    freedom = sum(len(losses) - 1 for losses in repeated)
    if not freedom:
        return
    variance = sum(statistics.variance(losses) * (len(losses) - 1) for losses in repeated) / freedom
    t = T95[max(known for known in T95 if known <= freedom)]
    for seeds in (1, 2, 3):
        yield {
            "measure": "resolution",
            "scenario": 1,
            "seeds": seeds,
            "mixtures": len(repeated),
            "freedom": freedom,
            "spread": variance**0.5,
            "value": t * (2 * variance / seeds) ** 0.5,
            "unit": "nats/token",
        }


def table(found: list[dict[str, Any]]) -> str:
    head = ["target", "tokens/domain", "rule", "prior", "estimator", "test loss", "std", "aligning", "epochs"]
    body = [
        [
            *(row["target"], f"{row['cap']:,}" if row["cap"] else "all", row["rule"], row["prior"], row["estimator"]),
            *(f"{row['value']:.3f}", "-" if row["spread"] is None else f"{row['spread']:.3f}"),
            *(f"{row['aligning']:.0%}", f"{row['epochs_of_top_domain']:.1f}"),
        ]
        for row in found
        if row["measure"] == "loss"
    ]
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    lines = ["  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in [head, *body]]
    told = [f"Resolution with {r['seeds']} seed(s): {r['value']:.3f}" for r in found if r["measure"] == "resolution"]
    return "\n".join(
        ["Target test loss, nats/token; share of time aligning; passes over the most repeated domain", *lines, *told]
    )


if __name__ == "__main__":
    main()
