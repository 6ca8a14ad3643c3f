"""Target loss of each rule where generic data is scarce: the paper's first scenario, on a folder of your own text.

    python benchmarks/scenarios.py --root DIR                the full table
    python benchmarks/scenarios.py --root DIR --quick        the same columns in under a minute
    python benchmarks/scenarios.py --root DIR --rules dga --estimators backward in_step auto

Every cell is a `dga-train` run of its own, with one thread. Seeds are paired: rules with one seed share the data
sample, the initialisation and the order within each domain. Finished runs are kept in `--runs` and not run again.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import result

RULES = ("uniform", "importance", "dga", "dga_paper")
ALIGNING = ("dga", "dga_paper")


@dataclass(frozen=True)
class Run:
    """One training run."""

    target: str
    cap: int
    rule: str
    estimator: str
    seed: int
    steps: int

    def folder(self, runs: Path) -> Path:
        cell = f"{self.rule}_{self.estimator}_seed{self.seed}"
        return runs / f"{self.target}-cap{self.cap}-steps{self.steps}" / cell

    @property
    def aligns(self) -> bool:
        return self.rule in ALIGNING


def main() -> None:
    options = arguments()
    histograms = {target: histogram(options, target) for target in options.targets}
    runs = [
        Run(target, cap, rule, estimator, seed, options.steps)
        for target in options.targets
        for cap in options.caps
        for seed in options.seeds
        for rule in options.rules
        for estimator in (options.estimators if rule in ALIGNING else ["none"])
    ]
    with ThreadPoolExecutor(options.jobs) as pool:
        metrics = dict(
            zip(runs, pool.map(lambda run: execute(run, options, histograms[run.target]), runs), strict=True)
        )
    print(table(metrics))
    if options.json:
        result.write(options.json, command(options), rows(metrics))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of <domain>.jsonl and target_<name>.jsonl")
    parser.add_argument("--targets", nargs="+", default=["math"], metavar="NAME")
    parser.add_argument("--caps", nargs="+", type=int, default=[20_000], metavar="TOKENS", help="per domain")
    parser.add_argument("--rules", nargs="+", default=["uniform", "importance", "dga"], choices=RULES)
    parser.add_argument("--estimators", nargs="+", default=["auto"], metavar="NAME", help="of the rules that align")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at once")
    parser.add_argument("--runs", type=Path, default=Path("runs/scenarios"), help="where runs are kept")
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--quick", action="store_true", help="one seed and 40 steps")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.steps = options.seeds[:1], 40
    return options


def histogram(options: argparse.Namespace, target: str) -> Path:
    file = options.runs / f"{target}-histogram.json"
    if not file.is_file():
        script = "from lightning_dga.make_domains import main; main()"
        call = [sys.executable, "-c", script, "histogram", str(options.root), target, "--output", str(file)]
        subprocess.run(call, check=True)
    return file


def execute(run: Run, options: argparse.Namespace, histogram: Path) -> dict[str, Any]:
    folder = run.folder(options.runs)
    if not (folder / "metrics.json").is_file():
        call = [
            *(sys.executable, "-m", "lightning_dga.train", "experiment=corpora", f"callbacks={run.rule}"),
            *(f"data.root={options.root}", f"data.target={run.target}", f"data.tokens_per_domain={run.cap}"),
            *(f"data.cache_dir={options.runs / 'tokens'}", f"seed={run.seed}", f"trainer.max_steps={run.steps}"),
            *("trainer.enable_progress_bar=false", "~callbacks.progress", "overwrite=true", f"hydra.run.dir={folder}"),
        ]
        if run.aligns:
            call.append(f"callbacks.dga.estimator={run.estimator}")
        if run.rule == "importance":
            call.append(f"callbacks.dga.rule.histogram=${{json:{histogram}}}")
        finished = subprocess.run(call, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
        if finished.returncode:
            sys.exit(f"{' '.join(call)}\n{finished.stderr}")
        print(f"done: {run}", file=sys.stderr, flush=True)
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def groups(metrics: dict[Run, dict[str, Any]]) -> dict[tuple[str, int, str, str], list[Run]]:
    found: dict[tuple[str, int, str, str], list[Run]] = {}
    for run in metrics:
        found.setdefault((run.target, run.cap, run.rule, run.estimator), []).append(run)
    return found


def rows(metrics: dict[Run, dict[str, Any]]) -> list[dict[str, Any]]:
    table_rows = []
    for (target, cap, rule, estimator), runs in groups(metrics).items():
        losses = [metrics[run]["test/target_loss"] for run in runs]
        table_rows.append(
            {
                "measure": "loss",
                "target": target,
                "cap": cap,
                "rule": rule,
                "estimator": estimator,
                "steps": runs[0].steps,
                "seeds": [run.seed for run in runs],
                "value": statistics.mean(losses),
                "unit": "nats/token",
                "spread": statistics.stdev(losses) if len(losses) > 1 else None,
                "values": losses,
                "aligning": statistics.mean(metrics[r]["align_seconds"] / metrics[r]["wall_seconds"] for r in runs),
                "epochs_of_top_domain": statistics.mean(max(metrics[run]["epochs"].values()) for run in runs),
            }
        )
    return table_rows


def table(metrics: dict[Run, dict[str, Any]]) -> str:
    seeds = sorted({run.seed for run in metrics})
    head = [
        "target",
        "tokens/domain",
        "rule",
        "estimator",
        "test loss",
        "std",
        *(f"seed {s}" for s in seeds),
        "aligning",
        "epochs",
    ]
    body = [
        [
            *(row["target"], f"{row['cap']:,}", row["rule"], row["estimator"], f"{row['value']:.3f}"),
            "-" if row["spread"] is None else f"{row['spread']:.3f}",
            *(f"{value:.3f}" for value in row["values"]),
            *(f"{row['aligning']:.0%}", f"{row['epochs_of_top_domain']:.1f}"),
        ]
        for row in rows(metrics)
    ]
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    lines = ["  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in [head, *body]]
    return "\n".join(
        ["Target test loss, nats/token; share of time aligning; passes over the most repeated domain", *lines]
    )


def command(options: argparse.Namespace) -> str:
    lists = {name: getattr(options, name) for name in ("targets", "caps", "rules", "estimators", "seeds")}
    given = " ".join(f"--{name} {' '.join(map(str, values))}" for name, values in lists.items())
    return f"python benchmarks/scenarios.py --root DIR {given} --steps {options.steps}"


if __name__ == "__main__":
    main()
