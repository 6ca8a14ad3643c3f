"""How far alignments are from the reference, along training.

In single precision the reference is one gradient in float64 for each domain. In half precision it is one in that
precision, since the rounding of the model itself is no estimator's; how large that is against float64 is told as well.

python benchmarks/accuracy.py --json benchmarks/results/accuracy.json
"""

import argparse
import copy
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common.accuracy_models import KINDS, Kind
from common.result import write
from torch import Tensor, nn

from lightning_dga import MixtureDataModule
from lightning_dga.alignment import (
    Auto,
    Backward,
    Batched,
    Estimator,
    EstimatorRefusal,
    FiniteDifference,
    InStep,
    Measurement,
    ProbeLoss,
    TrainingStep,
    isolated,
)
from lightning_dga.alignment.estimators.self_test import TOLERANCE, RehearsedStep, relative_error
from lightning_dga.core.alignments import Alignments

DOMAINS, PROBES = 6, 3
# of the reference itself, in half precision
ROUNDING = "backward, against float64"
PRECISIONS = ("32-true", "bf16-mixed", "bf16-true")


class Chosen:
    """What ``auto`` chooses where training steps hold too few samples to be watched."""

    def __init__(self) -> None:
        self._auto = Auto()

    def measure(self, measurement: Measurement) -> Alignments | None:
        estimator = self._auto.choose(measurement, TrainingStep(1, pure=False), None)
        assert not isinstance(estimator, InStep)
        return estimator.measure(measurement)  # type: ignore[union-attr]


def estimators(loss: ProbeLoss) -> dict[str, Estimator]:
    return {
        "backward": Backward(),
        "batched": Batched(),
        "finite_difference": FiniteDifference(),
        "in_step": RehearsedStep(InStep(), loss, pure=False),
        "in_step, pure batches": RehearsedStep(InStep(), loss, pure=True),
        "auto": Chosen(),
    }


def errors(kind: Kind, precision: str, seed: int, steps: int, every: int) -> Iterator[tuple[str, float | None, str]]:
    """Name, relative error (``None`` where refused), and the refusal, of each estimator at each measurement."""
    torch.manual_seed(seed)
    data = MixtureDataModule(
        {str(domain): kind.data(domain) for domain in range(DOMAINS)}, kind.data(1), batch_size=16,
        target_batch_size=12, seed=seed,
    )  # fmt: skip
    model = kind.build()
    dtype = torch.bfloat16 if precision == "bf16-true" else torch.float32
    model = model.to(dtype)
    context: Callable[[], AbstractContextManager[Any]] = (
        partial(torch.autocast, "cpu", torch.bfloat16) if precision == "bf16-mixed" else nullcontext
    )
    loss = ProbeLoss(model, _loss, forward_context=context, transfer=partial(_to, dtype=dtype))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, ours = torch.optim.AdamW(parameters, 3e-3), estimators(loss)
    everything = [sample for domain in range(DOMAINS) for sample in kind.data(domain)]
    order = torch.Generator().manual_seed(seed)
    for step in range(steps + 1):
        if step % every == 0:
            probes = data.probes(step // every, PROBES)
            measurement = Measurement(model, loss, parameters, probes, DOMAINS, step)
            with isolated(model):
                expected = by_definition(model, measurement, dtype)
                if precision != "32-true":
                    exact, expected = expected, Backward().measure(measurement)
                    yield ROUNDING, relative_error(expected, exact, torch.bfloat16), ""
                assert expected is not None
                for name, estimator in ours.items():
                    try:
                        found = estimator.measure(measurement)
                    except EstimatorRefusal as refusal:
                        yield name, None, str(refusal)
                    else:
                        assert found is not None
                        yield name, relative_error(found, expected, loss.precision(parameters)), ""
        rows = torch.randint(len(everything), (16,), generator=order).tolist()
        batch = [torch.stack(column) for column in zip(*(everything[row] for row in rows), strict=True)]
        optimizer.zero_grad()
        loss(batch).backward()
        optimizer.step()


def by_definition(model: nn.Module, measurement: Measurement, dtype: torch.dtype) -> Alignments:
    """The alignments from one gradient in float64 for each domain, of the same parameters and samples."""
    double = copy.deepcopy(model).double().eval()
    parameters = [parameter for parameter in double.parameters() if parameter.requires_grad]

    def gradient(batches: list[tuple[int, Any]]) -> Tensor:
        total = sum(count for count, _ in batches)
        mean = sum(
            _loss(double, _to(_to(batch, dtype), torch.float64)).mean() * (count / total) for count, batch in batches
        )
        parts = torch.autograd.grad(mean, parameters, allow_unused=True)  # type: ignore[arg-type]
        zeros = map(torch.zeros_like, parameters)
        return torch.cat([(zero if part is None else part).flatten() for part, zero in zip(parts, zeros, strict=True)])

    target = gradient([(len(probe.domains), probe.batch) for probe in measurement.probes.target()])
    of_domains: list[list[tuple[int, Any]]] = [[] for _ in range(DOMAINS)]
    for probe in measurement.probes.by_domain():
        of_domains[int(probe.domains[0])].append((len(probe.domains), probe.batch))
    values = torch.stack([gradient(batches) @ target for batches in of_domains])
    counts = torch.tensor([sum(count for count, _ in batches) for batches in of_domains])
    return Alignments(values, counts, torch.zeros_like(values), 0.0, target.norm().item(), measurement.step)


def _loss(module: Any, batch: Any) -> Tensor:
    losses: Tensor = module.alignment_loss(batch)
    return losses


def _to(batch: Any, dtype: torch.dtype) -> list[Tensor]:
    return [part.to(dtype) if part.is_floating_point() else part for part in batch]


def rows(models: list[str], precisions: list[str], seeds: int, steps: int, every: int) -> Iterator[dict[str, Any]]:
    """One row for each estimator, model and precision."""
    for model in models:
        for precision in precisions:
            found: dict[str, list[float]] = {}
            refused: dict[str, list[str]] = {}
            try:
                for seed in range(seeds):
                    for name, error, refusal in errors(KINDS[model], precision, seed, steps, every):
                        found.setdefault(name, []).extend([] if error is None else [error])
                        refused.setdefault(name, []).extend([refusal] if error is None else [])
            except RuntimeError as error:
                if "could not create a primitive" not in str(error):
                    raise
                print(f"{model}, {precision}: torch has no kernel for this processor", file=sys.stderr)
                continue
            for name, values in found.items():
                tolerance = TOLERANCE[torch.float32 if precision == "32-true" else torch.bfloat16]
                row = {
                    "measure": "rounding" if name == ROUNDING else "error_along_training",
                    "estimator": "backward" if name == ROUNDING else name,
                    "model": model,
                    "precision": precision,
                    "k": DOMAINS,
                    "value": max(values) if values else None,
                    "unit": "relative",
                    "spread": [sorted(values)[len(values) // 2], max(values)] if values else None,
                    "measurements": len(values) + len(refused[name]),
                    "refused": len(refused[name]),
                    "refusal": refused[name][0] if refused[name] else None,
                    "tolerance": None if name == ROUNDING else tolerance,
                    "seeds": seeds,
                    "steps": steps,
                }
                within = row["value"] is None or row["tolerance"] is None or row["value"] <= tolerance
                shown = "refused" if row["value"] is None else f"{row['value']:.0e}"
                print(
                    f"{model}, {precision}, {name}: {shown}, {row['refused']} of {row['measurements']} refused"
                    + ("" if within else " OUT OF TOLERANCE"),
                    flush=True,
                )
                yield row


def main() -> None:
    # an estimator that gives way warns; the table counts it
    warnings.filterwarnings("ignore")
    logging.disable(logging.INFO)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--append", action="store_true", help="adds to the results in that file")
    parser.add_argument("--quick", action="store_true", help="two models, one seed, 40 steps: under a minute")
    parser.add_argument("--models", nargs="*", default=list(KINDS), choices=list(KINDS), help="which models")
    parser.add_argument(
        "--precisions", nargs="*", default=list(PRECISIONS), choices=PRECISIONS, help="which precisions"
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--every", type=int, default=20, help="training steps from one measurement to the next")
    given = parser.parse_args()
    if given.quick:
        given.models, given.seeds, given.steps = ["MLP, ReLU", "LSTM"], 1, 40
    torch.set_num_threads(1)
    settings = f"--precisions {' '.join(given.precisions)} --seeds {given.seeds} --every {given.every}"
    command = f"python benchmarks/accuracy.py --json benchmarks/results/accuracy.json {settings}"
    found = []
    if given.append:
        earlier = json.loads(given.json.read_text(encoding="utf-8"))
        command, found = f"{earlier['command']} && {command} --append", earlier["rows"]
    for row in rows(given.models, given.precisions, given.seeds, given.steps, given.every):
        found.append(row)
        # a run takes long: what is known so far is kept
        if given.json:
            write(given.json, command, found)
    out = [row for row in found if row["tolerance"] and row["value"] is not None and row["value"] > row["tolerance"]]
    sys.exit(1 if out else 0)


if __name__ == "__main__":
    main()
