"""What alignments cost beside training, and how exact they are: each estimator over models, domains and precisions.

    python benchmarks/alignment.py                 the full tables
    python benchmarks/alignment.py --quick         the same columns in under a minute
    python benchmarks/alignment.py --parts memory  one of: overhead, end_to_end, memory, error

Times are ratios within one run: every other training step has an update after or around it, and is compared with its
neighbour that has none. Nothing is timed alone, so the machine's own ups and downs cancel. On a machine without a GPU
it is processor time of one thread; on one with a GPU, time by the clock. It runs unchanged on either.
"""

import argparse
import copy
import logging
import statistics
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from common import result
from common.live_memory import peak_bytes
from common.separate_passes import SeparatePasses
from common.workload import SIZES, Clock, Setting
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from lightning_dga.alignment import ESTIMATORS, Batched, EstimatorRefusal, InStep, Measurement, ProbeLoss, isolated

PERIOD = 100
ESTIMATING: dict[str, Callable[[], Any]] = {
    **ESTIMATORS,
    "batched, rank 16": lambda: Batched(rank=16),
    "in_step, rank 16": lambda: InStep(rank=16),
    "separate, streamed": lambda: SeparatePasses(matrix=False),
    "separate, matrix": lambda: SeparatePasses(matrix=True),
}
SAME_SAMPLES = ("backward", "batched", "finite_difference")
Row = dict[str, Any]


def main() -> None:
    options = arguments()
    quiet()
    rows: list[Row] = []
    for part in options.parts:
        for row in PARTS[part](options.quick):
            rows.append(row)
            print(line(row), flush=True)
            if options.json:
                result.write(options.json, f"python benchmarks/alignment.py --parts {' '.join(options.parts)}", rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--quick", action="store_true", help="few cells, few steps")
    parser.add_argument("--json", type=Path, help="write the result here")
    return parser.parse_args()


def quiet() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)


def overhead(quick: bool) -> Iterator[Row]:
    """Share of training that updates take, and how ``auto`` compares with the best of those that measure the same."""
    for setting, pairs in cells(quick):
        taken: dict[str, float] = {}
        for name in estimators_of(setting):
            ratios, chosen = update_in_steps(setting, name, pairs)
            if ratios:
                taken[name] = statistics.median(ratios)
            yield {
                "measure": "overhead",
                "estimator": name,
                **described(setting),
                "period": PERIOD,
                "value": taken[name] / PERIOD if ratios else None,
                "unit": "share of training",
                "spread": [min(ratios) / PERIOD, max(ratios) / PERIOD] if ratios else None,
                "pairs": len(ratios),
                **({"chosen": chosen} if chosen else {}),
            }
        if "auto" in taken:
            # the one that it may always choose is better still only where a step holds all the samples
            rivals = [n for n in taken if n in SAME_SAMPLES or (n == "in_step" and holds_all(setting))]
            best = min(rivals, key=lambda n: taken[n])
            yield {
                "measure": "auto_against_best",
                "best": best,
                **described(setting),
                "value": (1 + taken["auto"] / PERIOD) / (1 + taken[best] / PERIOD),
                "of_updates": taken["auto"] / taken[best],
                "unit": "ratio of the time of training",
                "spread": None,
            }


def described(setting: Setting) -> Row:
    return {**asdict(setting), "length": SIZES[setting.model].length}


def holds_all(setting: Setting) -> bool:
    return setting.batch >= setting.k * setting.probe


def cells(quick: bool) -> Iterator[tuple[Setting, int]]:
    if quick:
        yield Setting("0.3M, short", 8, batch=16, probe=2), 3
        return
    if torch.cuda.is_available():
        for k in (8, 64, 256):
            yield Setting("125M", k, "bf16-mixed"), 5
    for k in (4, 8, 16, 64, 256):
        yield Setting("0.3M", k), 3 if k == 256 else 7
    for k in (8, 64):
        yield Setting("0.3M, short", k), 9
        yield Setting("0.3M", k, "bf16-mixed"), 5
        yield Setting("4M", k), 3


def estimators_of(setting: Setting) -> list[str]:
    if SIZES[setting.model].d_model > 96:
        return list(ESTIMATORS)
    return [name for name in ESTIMATING if name != "separate, matrix" or setting.k <= 16]


def update_in_steps(setting: Setting, name: str, pairs: int) -> tuple[list[float], str | None]:
    """What an update takes, in training steps, in each of some pairs of neighbouring steps; none where it refuses."""
    timer, first = Clock(), 4
    callback = setting.callback(ESTIMATING[name](), due=lambda step: step % 2 == 0)
    try:
        setting.fit(first + 2 * pairs + 1, [timer, callback])
    except MisconfigurationException:
        return [], None
    steps = timer.seconds[first:]
    ratios = [with_it / without - 1 for without, with_it in zip(steps[0::2], steps[1::2], strict=False)]
    return ratios, callback._loop.progress.estimator


def end_to_end(quick: bool) -> Iterator[Row]:
    """The same training with the callback and without, as it is used: the share that it adds to the whole."""
    settings = [Setting("0.3M, short", 8, batch=16, probe=2)] if quick else [Setting("0.3M, short", k) for k in (8, 64)]
    steps, pairs = (PERIOD, 1) if quick else (2 * PERIOD, 5)
    for setting in settings:
        for name in ("in_step", "auto"):
            ratios = []
            for _ in range(pairs):
                callback = setting.callback(ESTIMATING[name](), due=lambda step: step % PERIOD == 0)
                with_it, without = Clock(), Clock()
                setting.fit(steps + 1, [without])
                setting.fit(steps + 1, [with_it, callback])
                ratios.append(sum(with_it.seconds) / sum(without.seconds) - 1)
            yield {
                "measure": "end_to_end",
                "estimator": name,
                **described(setting),
                "period": PERIOD,
                "steps": steps,
                "value": statistics.median(ratios),
                "unit": "share of training",
                "spread": [min(ratios), max(ratios)],
                "pairs": pairs,
            }


def memory(quick: bool) -> Iterator[Row]:
    """Extra peak memory of a training run in units of a gradient, where activations are small beside it."""
    for k in (8,) if quick else (8, 256):
        setting = Setting("16M", k, batch=8, probe=2)
        plain = peak(setting, None)
        for name in ("in_step",) if quick else ESTIMATING:
            if name == "separate, matrix" and k > 8:
                continue
            extra = (peak(setting, name) - plain) / gradient_bytes(setting)
            yield {
                "measure": "memory",
                "estimator": name,
                **described(setting),
                "value": extra,
                "unit": "gradients",
                "spread": None,
            }


def gradient_bytes(setting: Setting) -> int:
    return sum(p.numel() * 4 for p in SIZES[setting.model].model().parameters())


def peak(setting: Setting, name: str | None) -> int:
    """Peak bytes of a run with the callback, or without one."""
    return peak_bytes(
        lambda: setting.fit(4, [setting.callback(ESTIMATING[name](), due=lambda step: step > 1)] if name else [])
    )


def error(quick: bool) -> Iterator[Row]:
    """Largest difference from float64 gradients by definition, relative to the largest alignment."""
    for model in ("0.3M, short",) if quick else ("0.3M, short", "4M"):
        for precision in ("32-true", "bf16-mixed"):
            setting = Setting(model, 4, precision, batch=16)
            for name in (*SAME_SAMPLES, "batched, rank 16"):
                yield {
                    "measure": "error",
                    "estimator": name,
                    **described(setting),
                    "value": relative_error(setting, name),
                    "unit": "relative",
                    "spread": None,
                }


def relative_error(setting: Setting, name: str) -> float | None:
    torch.manual_seed(0)
    data, model = setting.datamodule(), SIZES[setting.model].model().eval()
    probes = data.probes(0, setting.probe)
    target = by_definition(model, next(iter(probes.target())).batch)
    expected = torch.stack([by_definition(model, probe.batch) @ target for probe in probes.by_domain()])
    half = setting.precision == "bf16-mixed"
    loss = ProbeLoss(
        model,
        lambda module, batch: module.alignment_loss(batch),
        forward_context=lambda: torch.autocast("cpu", torch.bfloat16, enabled=half),
    )
    measurement = Measurement(model, loss, list(model.parameters()), probes, setting.k, step=1)
    try:
        with isolated(model):
            found = ESTIMATING[name]().measure(measurement)
    except EstimatorRefusal:
        return None
    return ((found.values - expected).abs().max() / expected.abs().max()).item()


def by_definition(model: Any, batch: Tensor) -> Tensor:
    exact = copy.deepcopy(model).double()
    loss = exact.alignment_loss(batch).mean()
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(exact.parameters()))])


def line(row: Row) -> str:
    where = f"{row['model']:>12}  k={row['k']:<4} {row['precision']:>10}"
    value = "refused" if row["value"] is None else f"{row['value']:.3g} {row['unit']}"
    more = f"  {row['spread']}" if row["spread"] else ""
    return f"{row['measure']:>18}  {where}  {row.get('estimator', row.get('best')):>18}  {value}{more}"


PARTS: dict[str, Callable[[bool], Iterator[Row]]] = {
    "overhead": overhead,
    "end_to_end": end_to_end,
    "memory": memory,
    "error": error,
}

if __name__ == "__main__":
    main()
