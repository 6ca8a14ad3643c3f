"""One training run of the scarcity scenario: a rule, a prior and a budget of tokens, as overrides of a config."""

import argparse
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.training import QUIET

FIXED = ("uniform", "mix15", "mix30", "mix60", "importance", "water_filling")
MIX = re.compile(r"mix(\d+)")


@dataclass(frozen=True)
class Cell:
    """One training run.

    Attributes:
        target: Name of the target.
        cap: Tokens of each domain; ``None`` for all there are.
        method: A rule, or ``mixP``: P % importance sampling, the rest uniform.
        prior: ``right`` (the target's histogram), ``wrong`` (the same, of the next domain each), or ``none``.
        estimator: Of the rules that align.
        seed: Of the data sample and of the initialisation.
        order: Of the sequence of samples.
        steps: Optimizer steps.
    """

    target: str
    cap: int | None
    method: str
    prior: str
    estimator: str
    seed: int
    order: int
    steps: int

    def folder(self, runs: Path) -> Path:
        name = f"{self.method}-{self.prior}-{self.estimator}-seed{self.seed}-order{self.order}"
        return runs / f"{self.target}-cap{self.cap}-steps{self.steps}" / name


def is_fixed(name: str) -> bool:
    return name in FIXED or MIX.fullmatch(name) is not None


def histogram(options: argparse.Namespace, target: str) -> dict[str, float]:
    file = options.runs / f"{target}-histogram.json"
    if not file.is_file():
        from lightning_dga.cli.domains import main as dga_domains

        dga_domains(["histogram", str(options.root), target, "--output", str(file)])
    counted: dict[str, float] = json.loads(file.read_text(encoding="utf-8"))
    return counted


def overrides(cell: Cell, options: argparse.Namespace, counted: Mapping[str, float]) -> list[str]:
    names = list(counted)
    shares = {
        "right": dict(counted),
        "wrong": {name: counted[names[(i + 1) % len(names)]] for i, name in enumerate(names)},
        "none": None,
    }[cell.prior]
    callbacks, weights = cell.method, None
    if cell.method.startswith("mix") and shares is not None:
        part = int(cell.method.removeprefix("mix")) / 100
        callbacks, weights = "uniform", {n: part * shares[n] + (1 - part) / len(names) for n in names}
    found = [
        *("experiment=corpora", f"callbacks={callbacks}", f"prior={inline(shares)}", f"data.weights={inline(weights)}"),
        *(f"data.root={options.root.resolve()}", f"data.target={cell.target}"),
        *(f"data.tokens_per_domain={cell.cap or 'null'}", f"data.cache_dir={(options.runs / 'tokens').resolve()}"),
        *(f"seed={cell.seed}", f"data.seed={cell.order}", f"data.sample_seed={cell.seed}"),
        *(f"trainer.max_steps={cell.steps}", *QUIET),
    ]
    if cell.estimator != "none" and cell.method not in ("odm",):
        found.append(f"callbacks.dga.estimator={cell.estimator}")
    return [*found, *options.set]


def inline(shares: Mapping[str, float] | None) -> str:
    return "null" if shares is None else "{" + ",".join(f"{name}:{share}" for name, share in shares.items()) + "}"
