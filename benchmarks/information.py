"""What is learnt of the alignments per share of training: each estimator, probe size and target size.

    python benchmarks/information.py                 the full table
    python benchmarks/information.py --quick         the same columns in under a minute

One run for each choice: every other training step has an update, and compared with its neighbour that has none it
shows what an update takes. How much a domain's alignment scatters from update to update shows the error of one. From
these follows the period at which updates take a given share of training, and the standard error of the averages over
1,000 steps at that period, for a model that stands still. Errors are in units of the squared norm of the target
gradient, root mean squares over the domains.
"""

import argparse
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from alignment import Row, described, quiet
from common import result
from common.workload import Clock, Setting
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from lightning_dga.alignment import ESTIMATORS
from lightning_dga.core.alignments import Alignments

STEPS = 1000
SHARES = (0.005, 0.02)
NAMES = ("in_step", "batched", "backward", "auto")
FIRST = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one cell, few updates")
    parser.add_argument("--json", type=Path, help="write the result here")
    options = parser.parse_args()
    quiet()
    rows: list[Row] = []
    for row in information(options.quick):
        rows.append(row)
        print(line(row), flush=True)
        if options.json:
            result.write(options.json, "python benchmarks/information.py", rows)


def information(quick: bool) -> Iterator[Row]:
    """Rows of every choice at every share."""
    for setting, updates in choices(quick):
        for name in NAMES[:2] if quick else NAMES:
            timer, kept = Clock(), Kept(setting.callback(ESTIMATORS[name](), due=lambda step: step % 2 == 0))
            try:
                setting.fit(FIRST + 2 * updates + 1, [timer, kept.callback, kept])
            except MisconfigurationException:
                continue
            steps = timer.seconds[FIRST:]
            pairs = zip(steps[0::2], steps[1::2], strict=False)
            taken = statistics.median(with_it / without - 1 for without, with_it in pairs)
            for share in SHARES:
                period = max(1, math.ceil(taken / share))
                yield {
                    "measure": "information",
                    "estimator": name,
                    **described(setting),
                    "chosen": kept.callback._loop.progress.estimator,
                    "update": taken,
                    "share": share,
                    "period": period,
                    "value": error_of_one(kept.found) * math.sqrt(period / STEPS),
                    "by_samples": error_by_samples(kept.found) * math.sqrt(period / STEPS),
                    "unit": "squared target norm",
                    "spread": None,
                    "updates": len(kept.found),
                }


def choices(quick: bool) -> Iterator[tuple[Setting, int]]:
    if quick:
        yield Setting("0.3M, short", 8, batch=16, probe=2), 5
        return
    for model in ("0.3M", "4M"):
        for k in (8, 16, 64, 256):
            for probe in (1, 4):
                for target in (8, 32):
                    yield Setting(model, k, probe=probe, target=target), 12


class Kept(L.Callback):
    """Keeps each measurement; put it after the callback that measures."""

    def __init__(self, callback: Any) -> None:
        self.callback = callback
        self.found: list[Alignments] = []

    def on_train_batch_end(self, *_: Any) -> None:
        latest = self.callback.alignments
        if latest is not None and (not self.found or latest.step != self.found[-1].step):
            self.found.append(latest)


def error_of_one(found: list[Alignments]) -> float:
    """The standard error of one update's alignments, from how they scatter between updates."""
    values, samples = in_units(found)
    seen = samples > 0
    totals = samples.sum(0)
    means = (samples * values).sum(0) / totals
    # the variance of one sample, pooled over domains; an alignment on n of them has 1/n of it
    scatter = (samples * (values - means).square())[:, totals > 0].sum()
    variance = scatter / (seen.sum(0) - 1).clamp(min=0).sum()
    return (variance / samples.mean()).sqrt().item()


def error_by_samples(found: list[Alignments]) -> float:
    """The part of it that the choice of the domains' samples causes, as the estimator itself tells it; else NaN."""
    _, samples = in_units(found)
    norms = torch.tensor([one.target_norm for one in found], dtype=torch.float64)[:, None]
    variances = torch.stack([one.sample_variances for one in found]) / norms**4
    return (variances[samples > 0].nanmean() / samples.mean()).sqrt().item()


def in_units(found: list[Alignments]) -> tuple[Tensor, Tensor]:
    """Alignments in units of the squared target norm, and their samples, ``[updates, k]``; 0 where not measured."""
    fresh = torch.stack([one.measured & (one.ages == 0) for one in found])
    values = torch.stack([one.values / one.target_norm**2 for one in found])
    samples = torch.stack([one.counts for one in found]).double()
    return torch.where(fresh, values, 0.0), torch.where(fresh, samples, 0.0)


def line(row: Row) -> str:
    where = f"{row['model']:>12}  k={row['k']:<4} probe={row['probe']:<3} target={row['target']:<3}"
    cost = f"{row['update']:6.3f} steps, every {row['period']:>5}: {row['share']:.1%}"
    return f"{where} {row['estimator']:>10}  {cost}  error {row['value']:.3g} (by samples {row['by_samples']:.3g})"


if __name__ == "__main__":
    main()
