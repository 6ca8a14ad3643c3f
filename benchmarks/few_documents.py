"""Target loss where a handful of target documents falls into fine clusters: the paper's second scenario.

    python benchmarks/few_documents.py --root DIR --targets math inaugural
    python benchmarks/few_documents.py --root DIR --quick       the same columns in a minute or two

The documents of a folder of text are clustered, and the clusters are the domains. The target set is cut to a few
documents; validation and test documents of the target stay as they are. Every cell is what `dga-train data=clusters`
does, with one thread. A seed selects the target documents, the initialisation and the sequence of samples. Clusters and
finished runs are kept in `--runs`, so a benchmark that was stopped goes on.
"""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from common import result, training
from common.training import QUIET, command, summary, trained

from lightning_dga.cli.domains import main as dga_domains
from lightning_dga.domains import is_clustered

METHODS = ("uniform", "importance", "water_filling", "nearest", "basis", "basis_and_target", "basis_from_nearest")


@dataclass(frozen=True)
class Cell:
    """One training run.

    Attributes:
        target: Name of the target.
        documents: Of the target set; ``None`` for all there are.
        method: How the mixture is chosen.
        seed: Of the documents, the initialisation and the sequence of samples.
        steps: Optimizer steps.
    """

    target: str
    documents: int | None
    method: str
    seed: int
    steps: int

    def folder(self, runs: Path) -> Path:
        return runs / f"{self.target}-{self.documents}-steps{self.steps}" / f"{self.method}-seed{self.seed}"


def main() -> None:
    options = arguments()
    work = clustered(options)
    cells = list(all_cells(options))
    runs = {cell: (cell.folder(options.runs), overrides(cell, options, work)) for cell in cells}
    losses = dict(trained(runs, options.jobs))
    found = list(rows({cell: losses[cell] for cell in cells}, options.clusters))
    for row in found:
        print(f"{row['target']:>12} {row['documents']!s:>5} documents  {row['rule']:>18}  {row['value']:.3f}", end="")
        print(f"  {' '.join(f'{value:.3f}' for value in row['values'])}  {row['epochs_of_top_domain']:.1f} passes")
    if options.json:
        result.write(
            options.json, command("few_documents", options, "documents", "methods", "seeds", "clusters"), found
        )


def arguments() -> argparse.Namespace:
    parser = training.parser(__doc__, "few_documents", "few clusters, three methods, one seed and 40 steps")
    parser.add_argument("--clusters", type=int, default=512)
    parser.add_argument("--documents", nargs="+", type=int, default=[5, 50], help="of the target set; 0: all")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options = parser.parse_args()
    if options.quick:
        options.clusters, options.documents, options.seeds, options.steps = 32, [5], [0], 40
        options.methods = ["uniform", "importance", "basis_from_nearest"]
    return options


def clustered(options: argparse.Namespace) -> Path:
    """The folder of the clusters, with a basis of the histograms of the named domains."""
    work: Path = options.runs / f"clusters{options.clusters}"
    if not is_clustered(work):
        dga_domains(["embed", str(options.root), str(work)])
        dga_domains(["cluster", str(work), "--clusters", str(options.clusters)])
    dga_domains(["basis", str(work), "--output", str(work / "basis.npy")])
    return work


def all_cells(options: argparse.Namespace) -> Iterator[Cell]:
    for target, documents, name, seed in product(options.targets, options.documents, options.methods, options.seeds):
        yield Cell(target, documents or None, name, seed, options.steps)


def overrides(cell: Cell, options: argparse.Namespace, work: Path) -> list[str]:
    return [
        *("data=clusters", "model=gpt", "trainer=cpu", f"data.root={options.root.resolve()}"),
        *(f"data.target={cell.target}", f"data.labels={(work / 'labels.npy').resolve()}"),
        *(f"data.target_documents={cell.documents or 'null'}", f"data.target_seed={cell.seed}"),
        *("data.context_length=64", "data.batch_size=16", "data.target_batch_size=16"),
        *("model.num_layers=1", "model.d_model=64", f"data.cache_dir={(options.runs / 'tokens').resolve()}"),
        *(f"seed={cell.seed}", f"trainer.max_steps={cell.steps}", *QUIET),
        *of_method(cell, work),
    ]


def of_method(cell: Cell, work: Path) -> list[str]:
    """What chooses the mixture."""
    documents = ["--target-documents", str(cell.documents)] if cell.documents else []
    target_set = [*documents, "--target-seed", str(cell.seed)]
    file = (work / f"{cell.method}-{cell.target}-{cell.documents}-{cell.seed}.npy").resolve()
    basis = (work / "basis.npy").resolve()
    match cell.method:
        case "uniform":
            return ["callbacks=uniform"]
        case "nearest":
            dga_domains(["nearest", str(work), str(basis), cell.target, *target_set, "--output", str(file)])
            return ["callbacks=uniform", f"data.weights={file}"]
        case "basis":
            return ["callbacks=dga_basis", f"callbacks.dga.rule.basis={basis}"]
        case "basis_and_target":
            dga_domains(["basis", str(work), "--target", cell.target, *target_set, "--output", str(file)])
            return ["callbacks=dga_basis", f"callbacks.dga.rule.basis={file}"]
        case "basis_from_nearest":
            prior = file.with_suffix(".json")
            dga_domains(["nearest", str(work), str(basis), cell.target, *target_set, "--prior", str(prior)])
            of_rule = {"basis": basis, "rule.prior": prior}
            return ["callbacks=dga_basis", *(f"callbacks.dga.rule.{key}={value}" for key, value in of_rule.items())]
        case rule:
            dga_domains(["histogram", str(work), cell.target, *target_set, "--output", str(file)])
            return [f"callbacks={rule}", f"callbacks.dga.rule.prior={file}"]


def rows(metrics: Mapping[Cell, dict[str, Any]], clusters: int) -> Iterator[dict[str, Any]]:
    """A row of losses for each group of cells that differ in their seed only."""
    groups: dict[Cell, list[tuple[Cell, dict[str, Any]]]] = {}
    for cell, found in metrics.items():
        groups.setdefault(replace(cell, seed=0), []).append((cell, found))
    for group, found in groups.items():
        yield {
            "measure": "few_documents",
            **{name: getattr(group, name) for name in ("target", "documents", "steps")},
            "clusters": clusters,
            "rule": group.method,
            "seeds": [cell.seed for cell, _ in found],
            **summary([one for _, one in found]),
        }


if __name__ == "__main__":
    main()
