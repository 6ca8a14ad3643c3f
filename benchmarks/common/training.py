"""Training runs of a benchmark: each what `dga-train` does with some overrides, on one thread, and kept."""

import argparse
import json
import logging
import os
import statistics
import sys
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch

Cell = TypeVar("Cell", bound=Hashable)
# runs that are compared, not watched
QUIET = (
    "trainer.enable_progress_bar=false",
    "~callbacks.progress",
    "~callbacks.checkpoint",
    "trainer.val_check_interval=${trainer.max_steps}",
    "overwrite=true",
)


def parser(description: str | None, runs: str, quick: str) -> argparse.ArgumentParser:
    """What every benchmark that trains is told.

    Args:
        description: Of the benchmark.
        runs: Folder under `runs/` that keeps its runs.
        quick: What `--quick` leaves of it.
    """
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--root", type=Path, required=True, help="folder of <domain>.jsonl and target_<name>.jsonl")
    made.add_argument("--targets", nargs="+", default=["math"], metavar="NAME")
    made.add_argument("--steps", type=int, default=700)
    made.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at once")
    made.add_argument("--runs", type=Path, default=Path("runs") / runs, help="where runs are kept")
    made.add_argument("--json", type=Path, help="write the result here")
    made.add_argument("--quick", action="store_true", help=quick)
    return made


def command(name: str, options: argparse.Namespace, *lists: str) -> str:
    """What runs a benchmark again: its name, and the arguments that are told with it."""
    told = []
    for one in ("targets", *lists, "steps"):
        value = getattr(options, one)
        told.append(f"--{one} {' '.join(map(str, value)) if isinstance(value, list | tuple) else value}")
    return f"python benchmarks/{name}.py --root DIR {' '.join(told)}"


def trained(runs: Mapping[Cell, tuple[Path, Sequence[str]]], jobs: int) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Runs what has not run yet.

    Args:
        runs: Of each cell its folder, and the overrides of the config.
        jobs: How many run at once.

    Yields:
        Each cell and its `metrics.json`, as it is finished.
    """
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        # one process trains many cells: what it has imported and read it keeps
        futures = {pool.submit(train, *run): cell for cell, run in runs.items()}
        for number, done in enumerate(as_completed(futures), start=1):
            yield futures[done], done.result()
            print(f"{number}/{len(runs)} {futures[done]}", file=sys.stderr, flush=True)


def is_finished(folder: Path) -> bool:
    """Whether a run's result is there."""
    return (folder / "metrics.json").is_file()


def train(folder: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """What a run measured, which is trained if it is not there."""
    if not is_finished(folder):
        _train(folder.resolve(), overrides)
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return metrics


def summary(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What runs that differ in their seeds only come to."""
    losses = [one["test/target_loss"] for one in metrics]
    return {
        "value": statistics.mean(losses),
        "unit": "nats/token",
        "spread": statistics.stdev(losses) if len(losses) > 1 else None,
        "values": losses,
        "aligning": statistics.mean(one["align_seconds"] / one["wall_seconds"] for one in metrics),
        "epochs_of_top_domain": statistics.mean(max(one["epochs"].values()) for one in metrics),
    }


def _train(folder: Path, overrides: Sequence[str]) -> None:
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    from lightning_dga.cli.train import config_dir
    from lightning_dga.cli.train import train as dga_train

    logging.disable(logging.INFO)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        of_folder = [f"hydra.runtime.output_dir={folder}", "+hydra.runtime.choices.callbacks=none"]
        config = compose("train", [*overrides, *of_folder], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    dga_train(config, folder)
