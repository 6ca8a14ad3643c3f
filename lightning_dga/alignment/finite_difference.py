"""Alignments without a backward pass for the domains: central differences of the loss along the target gradient."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dga.alignment.estimator import EstimatorRefusal, Measurement
from lightning_dga.alignment.gradient import FlatGradient, total
from lightning_dga.alignment.loss import MeanLossError, ProbeLoss
from lightning_dga.alignment.probes import ProbeBatch, Probes
from lightning_dga.alignment.sums import DomainSums
from lightning_dga.alignment.target import TargetGradient, target_gradient
from lightning_dga.alignments import Alignments
from lightning_dga.distributed import holders, is_sharded, local_part, reshard, sum_over_processes_, world_size

# displacements to choose from, in units of the parameters' norm
_STEPS = tuple(1e-7 * 4.0**power for power in range(10))
# relative difference between two steps, a factor of 4 apart, that shows neither rounding nor curvature
_AGREEMENT = 5e-3
_MEASUREMENTS_BETWEEN_CHECKS = 10
_BATCHES_AT_ONCE = 16

_Losses = Callable[[Any], Tensor]


class FiniteDifference:
    """Alignments from two forward passes: ``a_i = |G| (L_i(θ + h G/|G|) - L_i(θ - h G/|G|)) / 2h``.

    A forward pass costs a third of forward and backward, so this is the cheapest way to measure many probes. It is not
    exact: too short a step drowns in rounding, too long a one leaves the tangent. The step is chosen on the probes
    themselves, where the results of neighbouring steps agree best, and checked again every tenth measurement; where
    none agree, it refuses.

    Memory is one gradient: the parameters are kept where the target gradient was, which is spent once they are moved
    along it, and are set back to the bit.
    """

    def __init__(self) -> None:
        self._step: float | None = None
        self._measurements = 0
        self._tells_samples_apart: bool | None = None

    def measure(self, measurement: Measurement) -> Alignments | None:
        """See :class:`~lightning_dga.alignment.estimator.Estimator`."""
        for parameter in measurement.parameters:
            if parameter.dtype.itemsize < torch.float32.itemsize:
                raise EstimatorRefusal(
                    f"finite_difference: the parameters are {parameter.dtype}, in which a small step is lost to "
                    "rounding. Use `estimator='backward'`."
                )
        if self._tells_samples_apart is None:
            self._tells_samples_apart = _tells_samples_apart(measurement)
        rows = _Rows(measurement, self._tells_samples_apart)
        step = self._checked_step(measurement, rows)
        target = target_gradient(measurement)
        if target is None or step is None:
            return None
        sums = DomainSums(target, measurement.num_domains)
        with _Line(measurement.module, target, step) as line:
            probes = rows.probes()
            while chunk := list(islice(probes, _BATCHES_AT_ONCE)):
                for probe, (slope, loss) in zip(chunk, line.slopes(chunk, rows.losses), strict=True):
                    domains, counts = rows.labels(probe, slope)
                    sums.add(domains, slope, loss, counts)
        return sums.alignments(measurement.step)

    def _checked_step(self, measurement: Measurement, rows: "_Rows") -> float | None:
        """The step to take; ``None`` where the target gradient is not finite."""
        due = self._measurements % _MEASUREMENTS_BETWEEN_CHECKS == 0
        self._measurements += 1
        if self._step is not None:
            if not due:
                return self._step
            errors = _disagreements(measurement, rows, (self._step / 2, self._step * 2))
            if errors is None or errors[0] < _AGREEMENT:
                return self._step
        errors = _disagreements(measurement, rows, _STEPS)
        if errors is None:
            return None
        best = min(range(len(errors)), key=errors.__getitem__)
        if not errors[best] < _AGREEMENT:
            raise EstimatorRefusal(
                "finite_difference: no step is both long enough for the precision in use and short enough for the "
                f"loss's curvature (results over neighbouring steps differ by {errors[best]:.1%} at best). Use "
                "`estimator='backward'`, or more precision."
            )
        self._step = 2 * _STEPS[best]
        return self._step


def _disagreements(measurement: Measurement, rows: "_Rows", steps: Sequence[float]) -> list[float] | None:
    """Relative differences of the slopes between neighbours of a list of steps, the same on all processes."""
    # a process may have no share of the probes, and takes part in what is decided together
    chunk = list(islice(rows.probes(), 1))
    found = []
    for step in steps:
        slopes = _slopes(measurement, rows, chunk, step)
        if slopes is None:
            return None
        found.append(slopes)
    squares = torch.stack([torch.stack([(a - b).square().sum(), b.square().sum()]) for a, b in pairwise(found)])
    sum_over_processes_(squares)
    return (squares[:, 0] / squares[:, 1]).sqrt().nan_to_num(math.inf).tolist()


def _slopes(measurement: Measurement, rows: "_Rows", chunk: Sequence[ProbeBatch], step: float) -> Tensor | None:
    """Slopes of the rows over a step, ``[rows]``; ``None`` where the target gradient is not finite."""
    # each step uses up a target gradient, which is gone at the end of this function, before there is a next one
    target = target_gradient(measurement)
    if target is None:
        return None
    none = torch.zeros(0, dtype=torch.float64, device=target.gradient.buffers[0].device)
    with _Line(measurement.module, target, step) as line:
        return torch.cat([none, *(slope for slope, _ in line.slopes(chunk, rows.losses))])


class _Rows:
    """The probes, as mixed batches where the loss tells samples apart, else one domain in each batch."""

    def __init__(self, measurement: Measurement, of_samples: bool) -> None:
        self._loss: ProbeLoss = measurement.loss
        self._probes: Probes = measurement.probes
        self._share = 1.0
        self._of_samples = of_samples
        if not self._of_samples and is_sharded(measurement.parameters):
            # processes must make the same passes, so all of them measure all domains
            self._probes, self._share = measurement.probes.whole(), 1 / world_size()

    def probes(self) -> Iterator[ProbeBatch]:
        return self._probes.mixed() if self._of_samples else self._probes.by_domain()

    def losses(self, batch: Any) -> Tensor:
        """Loss of each row of a batch, ``[rows]``."""
        if self._of_samples:
            return self._loss.of_samples(batch, with_graph=False)
        return self._loss(batch, with_graph=False)[None]

    def labels(self, probe: ProbeBatch, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Domain and number of samples of each row."""
        domains = torch.from_numpy(probe.domains)
        if self._of_samples:
            return domains, torch.ones_like(slope)
        return domains[:1], torch.full_like(slope, len(domains) * self._share)


@torch.no_grad()
def _tells_samples_apart(measurement: Measurement) -> bool:
    try:
        measurement.loss.of_samples(next(measurement.probes.mixed()).batch, with_graph=False)
    except MeanLossError:
        return False
    return True


class _Line:
    """The parameters, moved along the target gradient to one end of a step, to the other, and back.

    Args:
        module: The module of the parameters.
        target: The target gradient; its memory is used up.
        step: How far either end is, in units of the parameters' norm.
    """

    def __init__(self, module: nn.Module, target: TargetGradient, step: float) -> None:
        self._module = module
        self._parts = [local_part(parameter.detach()) for parameter in target.gradient.parameters]
        views = (target.gradient.view(parameter) for parameter in target.gradient.parameters)
        self._views = [view.view_as(part) for view, part in zip(views, self._parts, strict=True)]
        self._norm = target.norm
        self._width = step * _norm(target.gradient)
        self._ahead = True
        self._moved = 0

    def __enter__(self) -> "_Line":
        try:
            self._move()
        except BaseException:
            self.__exit__()
            raise
        return self

    @torch.no_grad()
    def __exit__(self, *_: object) -> None:
        for part, origin in islice(zip(self._parts, self._views, strict=True), self._moved):
            part.copy_(origin)
        reshard(self._module)

    @torch.no_grad()
    def _move(self) -> None:
        factor = self._width / self._norm if self._norm else 0.0
        for part, view in zip(self._parts, self._views, strict=True):
            # the gradient makes room for the parameter
            moved = view.mul_(factor).add_(part).clone()
            view.copy_(part)
            self._moved += 1
            part.copy_(moved)
        # FSDP2 may hold the gathered parameters of before the move
        reshard(self._module)

    @torch.no_grad()
    def slopes(self, chunk: Sequence[ProbeBatch], losses: _Losses) -> list[tuple[Tensor, Tensor]]:
        """Slope of the rows' losses along the target gradient, times its norm, and the losses; for each batch."""
        here = [self._loss_of(probe.batch, losses) for probe in chunk]
        self._cross()
        there = [self._loss_of(probe.batch, losses) for probe in chunk]
        factor = self._norm / (2 * self._width) if self._width else 0.0
        # the last end of a chunk is the first of the next one
        factor = -factor if self._ahead else factor
        return [((a - b) * factor, (a + b) / 2) for a, b in zip(here, there, strict=True)]

    def _cross(self) -> None:
        for part, origin in zip(self._parts, self._views, strict=True):
            # part <- 2 origin - part
            part.sub_(origin).neg_().add_(origin)
        self._ahead = not self._ahead
        reshard(self._module)

    def _loss_of(self, batch: Any, losses: _Losses) -> Tensor:
        # autocast keeps the cast weights of before the move
        torch.clear_autocast_cache()
        device = self._parts[0].device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            # both ends of a difference draw the same random numbers
            torch.manual_seed(0)
            return losses(batch).double()


def _norm(gradient: FlatGradient) -> float:
    """Of the parameters that a gradient is of, over all processes."""
    parts = ((parameter, local_part(parameter.detach())) for parameter in gradient.parameters)
    # a process that holds all parameters counts its share of them
    terms = [part.double().square().sum() / holders(parameter) for parameter, part in parts]
    return math.sqrt(sum_over_processes_(total(terms, like=gradient.buffers[0])).item())
