"""The target gradient, which every estimator takes inner products with."""

import math
from dataclasses import dataclass

import torch

from lightning_dga.alignment.estimator import Measurement, Preconditioner
from lightning_dga.alignment.gradients.gradient import FlatGradient, total
from lightning_dga.distributed import all_reduce_, is_sharded, to_local, world_size


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

    If parameters are sharded, the backward passes reduce over ranks, and all ranks read all samples in lockstep.

    Returns:
        The gradient; ``None``, on every rank, if it or the loss is not finite, or there is no loss.
    """
    gradient = FlatGradient(measurement.parameters, measurement.excluded)
    loss = measurement.loss
    sums = gradient.accumulator(2)
    probes = measurement.probes.whole() if gradient.sharded else measurement.probes
    for probe in probes.target():
        value, count = loss(probe.batch), len(probe.domains)
        gradient.add_(value * loss.scale, count / loss.scale)
        sums += torch.stack([value.detach().to(sums) * count, sums.new_tensor(count)])
    all_reduce_(sums)
    total_loss, samples = sums.tolist()
    # a sharded gradient is the mean over ranks that all read the same samples
    copies = world_size() if gradient.sharded else 1
    for buffer in gradient.buffers:
        if not gradient.sharded:
            all_reduce_(buffer)
        buffer.div_(samples / copies)
    squared_norm = _squared_norm(gradient, measurement.preconditioner)
    if not (math.isfinite(squared_norm) and math.isfinite(total_loss)):
        return None
    return TargetGradient(gradient, total_loss / samples, math.sqrt(squared_norm))


def target_loss(measurement: Measurement) -> float:
    """Mean loss over the target samples of all ranks, by forward passes only; every rank must call it."""
    parameters, loss = measurement.parameters, measurement.loss
    # if parameters are sharded, all ranks run the same batches in lockstep
    probes = measurement.probes.whole() if is_sharded(parameters) else measurement.probes
    sums = torch.zeros(2, dtype=torch.float32, device=parameters[0].device)
    with torch.no_grad():
        for probe in probes.target():
            count = len(probe.domains)
            sums += torch.stack([loss(probe.batch, with_graph=False).to(sums) * count, sums.new_tensor(count)])
    total_loss, samples = all_reduce_(sums).tolist()
    return total_loss / samples if samples else math.nan


def _squared_norm(gradient: FlatGradient, preconditioner: Preconditioner | None) -> float:
    """Multiplies the gradient by the preconditioner in place; returns its inner product with the original gradient."""
    terms = []
    for index, parameter in enumerate(gradient.parameters):
        view = gradient.view(parameter)
        diagonal = preconditioner(parameter) if preconditioner is not None else None
        before = view
        if diagonal is not None:
            before = view.clone()
            view.mul_(to_local(diagonal).reshape(-1))
        terms.append(gradient.term(index, before))
    squared = total(terms, like=gradient.buffers[0])
    return float(all_reduce_(squared) if gradient.sharded else squared)
