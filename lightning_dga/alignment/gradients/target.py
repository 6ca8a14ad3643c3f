"""The target gradient, which every estimator takes inner products with."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from lightning_dga.alignment.estimator import Measurement, Preconditioner
from lightning_dga.alignment.gradients.gradient import FlatGradient, total
from lightning_dga.distributed import all_reduce_, any_rank, in_lockstep, is_sharded, replicas, to_local, world_size

# numbers that are scaled by the preconditioner at a time, so that no copy of a whole parameter is made
_PIECE = 2**16


@dataclass(frozen=True)
class TargetGradient:
    """The gradient of the target loss at the parameters' present values.

    Attributes:
        gradient: The gradient, multiplied by the measurement's preconditioner.
        loss: Mean loss of the target samples.
        norm: ``sqrt(<grad L_target, D grad L_target>)`` with the preconditioner D; the Euclidean norm without one.
    """

    gradient: FlatGradient
    loss: float
    norm: float


def target_gradient(measurement: Measurement) -> TargetGradient | None:
    """The gradient of the mean loss over the target samples of all ranks, by one all-reduce of P numbers.

    If parameters are sharded, the backward passes reduce over ranks. Each rank runs its share of the samples, and as
    many passes as every other.

    Returns:
        The gradient; ``None``, on every rank, if it or the loss is not finite, or there is no loss.
    """
    gradient = FlatGradient(measurement.parameters, measurement.excluded)
    loss, device = measurement.loss, gradient.buffers[0].device
    # a loss is weighted before its backward pass, which reduces over ranks, by at most 1, which no float16 overflows
    unit = -(-measurement.probes.target_samples // world_size()) if gradient.sharded else 1
    sums = gradient.accumulator(2)
    for batch, count in _own_target(measurement):
        value = loss(batch)
        if gradient.sharded and any_rank(not value.requires_grad, device):
            return None
        weight = count / unit if gradient.sharded else 1.0
        gradient.add_(value * (loss.scale * weight), (unit if gradient.sharded else count) / loss.scale)
        sums += torch.stack([value.detach().to(sums) * count, sums.new_tensor(count)])
    all_reduce_(sums)
    total_loss, samples = sums.tolist()
    gradient.sum_over_ranks_()
    for buffer in gradient.buffers:
        buffer.div_(samples)
    squared_norm = _squared_norm(gradient, measurement.preconditioner)
    if not (math.isfinite(squared_norm) and math.isfinite(total_loss)):
        return None
    return TargetGradient(gradient, total_loss / samples, math.sqrt(squared_norm))


def target_loss(measurement: Measurement) -> float:
    """Mean loss over the target samples of all ranks, by forward passes only; every rank must call it."""
    loss = measurement.loss
    sums = torch.zeros(2, dtype=torch.float32, device=measurement.parameters[0].device)
    with torch.no_grad():
        for batch, count in _own_target(measurement):
            sums += torch.stack([loss(batch, with_graph=False).to(sums) * count, sums.new_tensor(count)])
    total_loss, samples = all_reduce_(sums).tolist()
    return total_loss / samples if samples else math.nan


def _own_target(measurement: Measurement) -> Iterator[tuple[Any, int]]:
    """This rank's share of the target batches, and how many samples of each count.

    If parameters are sharded, every pass gathers them, so a rank with fewer batches repeats one that does not count.
    """
    probes = measurement.probes
    if not is_sharded(measurement.parameters):
        yield from ((probe.batch, len(probe.domains)) for probe in probes.target())
        return
    device = to_local(measurement.parameters[0]).device
    for probe, own in in_lockstep(probes.target(), lambda: next(iter(probes.whole().target())), device):
        yield probe.batch, len(probe.domains) if own else 0


def _squared_norm(gradient: FlatGradient, preconditioner: Preconditioner | None) -> float:
    """Multiplies the gradient by the preconditioner in place; returns its inner product with the original gradient."""
    terms = []
    for index, parameter in enumerate(gradient.parameters):
        view = gradient.view(parameter)
        diagonal = preconditioner(parameter) if preconditioner is not None else None
        if diagonal is None:
            terms.append(gradient.term(index, view))
            continue
        for part, scale in zip(view.split(_PIECE), to_local(diagonal).reshape(-1).split(_PIECE), strict=True):
            scaled = part * scale
            terms.append(torch.dot(part, scaled) / (replicas(parameter) if gradient.sharded else 1))
            part.copy_(scaled)
    squared = total(terms, like=gradient.buffers[0])
    return float(all_reduce_(squared) if gradient.sharded else squared)
