"""Alignments without a backward pass for the domains: central differences of the loss along the target gradient."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dga.alignment.estimator import EstimatorRefusal, Measurement
from lightning_dga.alignment.estimators.backward import add_domains
from lightning_dga.alignment.estimators.self_test import TOLERANCE
from lightning_dga.alignment.gradients.gradient import FlatGradient, total
from lightning_dga.alignment.gradients.sums import DomainSums
from lightning_dga.alignment.gradients.target import TargetGradient, target_gradient
from lightning_dga.alignment.probing.loss import MeanLossError, ProbeLoss
from lightning_dga.alignment.probing.probes import ProbeBatch, Probes
from lightning_dga.alignment.registry import register_estimator
from lightning_dga.core.alignments import Alignments
from lightning_dga.distributed import all_reduce_, is_sharded, replicas, reshard, to_local, world_size

# the longest displacement to try, in units of the parameters' norm, and how often it is halved
_LONGEST, _HALVINGS = 2.0**-5, 18
_BATCHES_OF_SEARCH = 4
_BATCHES_AT_ONCE = 16

_Losses = Callable[[Any], Tensor]


@register_estimator("finite_difference")
class FiniteDifference:
    """Alignments from forward passes alone: slopes of the domains' losses along the target gradient.

    A slope is ``s(h) = |G| (L_i(θ + h G/|G|) - L_i(θ - h G/|G|)) / 2h``. Too short a step ``h`` drowns in rounding, too
    long a one leaves the tangent, and where the loss has kinks, or in single precision, no step may be right. So every
    measurement takes two steps and the loss at θ itself, and extrapolates ``(4 s(h) - s(2h)) / 3`` (Richardson), which
    is five forward passes. Its error is estimated from

    - how far the two steps' slopes are apart, which shows rounding and curvature,
    - how far the loss that the two steps extrapolate to is from the loss at θ, which shows kinks,
    - one domain in rotation that is measured by the reference as well.

    Where that is more than the tolerance of the precision in use
    (:data:`~lightning_dga.alignment.estimators.self_test.TOLERANCE`, relative to the norm of all alignments), the step
    is chosen anew, and where none is right the measurement is refused, and every one after it.

    Five forward passes cost more than forward and backward do, so this pays only where there are many domains, the loss
    tells samples apart, and :class:`~lightning_dga.alignment.Batched` cannot see the layers, as in recurrent networks.

    Memory is one gradient: the parameters are kept where the target gradient was, which is spent once they are moved
    along it, and are set back to the bit.
    """

    def __init__(self) -> None:
        self._step: float | None = None
        self._measurements = 0
        self._refused: str | None = None
        self._tells_samples_apart: bool | None = None

    def measure(self, measurement: Measurement) -> Alignments | None:
        """See :class:`~lightning_dga.alignment.estimator.Estimator`."""
        for parameter in measurement.parameters:
            if parameter.dtype.itemsize < torch.float32.itemsize:
                raise EstimatorRefusal(
                    f"finite_difference: the parameters are {parameter.dtype}, in which a small step is lost to "
                    "rounding. Use `estimator='backward'`."
                )
        if self._refused is not None:
            raise InexactError(self._refused)
        if self._tells_samples_apart is None:
            self._tells_samples_apart = _tells_samples_apart(measurement)
        rows = _Rows(measurement, bool(self._tells_samples_apart))
        checked = self._measurements % measurement.num_domains
        self._measurements += 1
        tolerance = TOLERANCE[measurement.loss.precision(measurement.parameters)]
        error = math.inf
        if self._step is not None:
            found = _differences(measurement, rows, self._step, checked)
            if found is None or found.error <= tolerance:
                return None if found is None else found.alignments
        self._step = _best_step(measurement, rows)
        if self._step is not None:
            found = _differences(measurement, rows, self._step, checked)
            if found is None or found.error <= tolerance:
                return None if found is None else found.alignments
            error = found.error
        elif target_gradient(measurement) is None:
            return None
        self._refused = (
            f"finite_difference: no step is both long enough for the precision in use and short enough for the loss's "
            f"curvature and kinks (the alignments may be off by {error:.1%}, more than {tolerance:.1%}). Use "
            "`estimator='backward'`, or more precision."
        )
        raise InexactError(self._refused)

    def state_dict(self) -> dict[str, Any]:
        """What the next measurement depends on."""
        return {"step": self._step, "measurements": self._measurements, "refused": self._refused}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from :meth:`state_dict`."""
        self._step, self._measurements, self._refused = state["step"], state["measurements"], state["refused"]


class InexactError(EstimatorRefusal):
    """An estimator has found its own results to be out of their tolerance."""


@dataclass(frozen=True)
class _Found:
    """Alignments, and an estimate of their relative error."""

    alignments: Alignments
    error: float


def _differences(measurement: Measurement, rows: "_Rows", step: float, checked: int) -> _Found | None:
    """Alignments from steps of ``step`` and twice that; ``None`` where the target gradient is not finite.

    Domain ``checked`` is measured by the reference as well.
    """
    target = target_gradient(measurement)
    if target is None:
        return None
    k = measurement.num_domains
    # before the line uses the gradient up
    reference, short, long = DomainSums(target, k), DomainSums(target, k), DomainSums(target, k)
    add_domains(reference, target, measurement, [checked])
    bounds = DomainSums(target, k)
    losses = [_loss_of(probe.batch, rows.losses, target) for probe in rows.probes()]
    with _Line(measurement.module, target, 2 * step) as line:
        probes = rows.probes()
        at_origin = iter(losses)
        while chunk := list(islice(probes, _BATCHES_AT_ONCE)):
            for probe, far, near in zip(chunk, *line.slopes(chunk, rows.losses), strict=True):
                domains, counts = rows.labels(probe, near.values)
                here = next(at_origin)
                # of a loss with one kink no more than this is left in the extrapolated slope
                bend = (4 * near.losses - far.losses - 3 * here) * line.slope_of(step)
                bound = bend.abs() + (near.values - far.values).abs()
                short.add(domains, near.values, here, counts)
                long.add(domains, far.values, far.losses, counts)
                bounds.add(domains, bound.square(), None, counts)
    exact, one, other, squared = (sums.alignments(measurement.step) for sums in (reference, short, long, bounds))
    values = (4 * one.values - other.values) / 3
    # rounding and kinks of samples are independent
    independent = squared.values / (one.counts.clamp(min=1) if rows.of_samples else 1)
    # of each estimate twice is allowed for, since it is itself one of chance
    apart = 2.4 * (one.values - other.values).nan_to_num().norm().item()
    off = 2 * (exact.values - values)[checked].nan_to_num().abs().item()
    kinks = 2 * independent.nan_to_num().sum().sqrt().item()
    worst, norm = max(apart, off, kinks), values.nan_to_num().norm().item()
    error = worst / norm if norm else math.inf if worst else 0.0
    return _Found(replace(one, values=values, by_target=values[:, None]), error)


def _best_step(measurement: Measurement, rows: "_Rows") -> float | None:
    """The shorter of the neighbouring steps whose slopes agree best, the same on all processes; ``None`` if none do."""
    target = target_gradient(measurement)
    if target is None:
        return None
    if target.norm == 0:
        return _LONGEST
    squares = target.gradient.accumulator(_HALVINGS - 1, 2)
    # a process may have no share of the probes, and takes part in what is decided together
    chunk = list(islice(rows.probes(), _BATCHES_OF_SEARCH))
    with _Line(measurement.module, target, _LONGEST) as line:
        found = []
        for _ in range(_HALVINGS):
            found.append([slope.values for slope in line.at_this_step(chunk, rows.losses)])
            line.halve()
    for index, (long, short) in enumerate(pairwise(found)):
        for a, b in zip(long, short, strict=True):
            squares[index] += torch.stack([(a - b).square().sum(), b.square().sum()]).to(squares)
    all_reduce_(squares)
    errors = (squares[:, 0] / squares[:, 1]).sqrt().nan_to_num(math.inf, math.inf).tolist()
    best = min(range(len(errors)), key=errors.__getitem__)
    return _LONGEST / 2.0 ** (best + 1) if errors[best] < math.inf else None


class _Rows:
    """The probes, as mixed batches where the loss tells samples apart, else one domain in each batch."""

    def __init__(self, measurement: Measurement, of_samples: bool) -> None:
        self._loss: ProbeLoss = measurement.loss
        self._probes: Probes = measurement.probes
        self._share = 1.0
        self.of_samples = of_samples
        if not self.of_samples and is_sharded(measurement.parameters):
            # processes must make the same passes, so all of them measure all domains
            self._probes, self._share = measurement.probes.whole(), 1 / world_size()

    def probes(self) -> Iterator[ProbeBatch]:
        return self._probes.mixed() if self.of_samples else self._probes.by_domain()

    def losses(self, batch: Any) -> Tensor:
        """Loss of each row of a batch, ``[rows]``."""
        if self.of_samples:
            return self._loss.of_samples(batch, with_graph=False)
        return self._loss(batch, with_graph=False)[None]

    def labels(self, probe: ProbeBatch, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Domain and number of samples of each row."""
        domains = torch.from_numpy(probe.domains)
        if self.of_samples:
            return domains, torch.ones_like(slope)
        return domains[:1], torch.full_like(slope, len(domains) * self._share)


@torch.no_grad()
def _tells_samples_apart(measurement: Measurement) -> bool:
    try:
        measurement.loss.of_samples(next(measurement.probes.mixed()).batch, with_graph=False)
    except MeanLossError:
        return False
    return True


@dataclass(frozen=True)
class _Slopes:
    """Slopes of the rows' losses along the target gradient, times its norm, and the losses, ``[rows]`` each."""

    values: Tensor
    losses: Tensor


class _Line:
    """The parameters, moved along the target gradient to both ends of steps, and back.

    Args:
        module: The module of the parameters.
        target: The target gradient; its memory is used up.
        step: How far either end of the longest step is, in units of the parameters' norm.
    """

    def __init__(self, module: nn.Module, target: TargetGradient, step: float) -> None:
        self._module = module
        self._target = target
        self._parts = [to_local(parameter.detach()) for parameter in target.gradient.parameters]
        views = (target.gradient.view(parameter) for parameter in target.gradient.parameters)
        self._views = [view.view_as(part) for view, part in zip(views, self._parts, strict=True)]
        self._norm = target.norm
        self._unit = _norm(target.gradient)
        self._width = step * self._unit
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

    def slopes(self, chunk: Sequence[ProbeBatch], losses: _Losses) -> tuple[list[_Slopes], list[_Slopes]]:
        """The slopes of each batch over the present step, and over half of it."""
        long = self.at_this_step(chunk, losses)
        self.halve()
        short = self.at_this_step(chunk, losses)
        self._stretch(2.0)
        return long, short

    @torch.no_grad()
    def at_this_step(self, chunk: Sequence[ProbeBatch], losses: _Losses) -> list[_Slopes]:
        """The slopes of each batch over the present step."""
        here = [_loss_of(probe.batch, losses, self._target) for probe in chunk]
        self._stretch(-1.0)
        there = [_loss_of(probe.batch, losses, self._target) for probe in chunk]
        factor = self._factor(self._width)
        return [_Slopes((b - a) * factor, (a + b) / 2) for a, b in zip(here, there, strict=True)]

    def slope_of(self, step: float) -> float:
        """What makes a slope, times the target gradient's norm, of a difference over a step to both sides."""
        return self._factor(step * self._unit)

    def _factor(self, width: float) -> float:
        # where the parameters, or the target gradient, are zero both ends are one place
        return self._norm / (2 * width) if width else 0.0

    def halve(self) -> None:
        """Halves the step."""
        self._stretch(0.5)

    @torch.no_grad()
    def _stretch(self, factor: float) -> None:
        for part, origin in zip(self._parts, self._views, strict=True):
            # the difference of neighbours is exact, and so is what is doubled after it was halved
            part.sub_(origin).mul_(factor).add_(origin)
        self._width *= factor
        reshard(self._module)


def _loss_of(batch: Any, losses: _Losses, target: TargetGradient) -> Tensor:
    # autocast keeps the cast weights of before a move
    torch.clear_autocast_cache()
    device = target.gradient.buffers[0].device
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
        # all ends of a difference draw the same random numbers
        torch.manual_seed(0)
        return losses(batch).double()


def _norm(gradient: FlatGradient) -> float:
    """Of the parameters that a gradient is of, over all processes."""
    parts = ((parameter, to_local(parameter.detach())) for parameter in gradient.parameters)
    # a process that holds all parameters counts its share of them
    terms = [part.double().square().sum() / replicas(parameter) for parameter, part in parts]
    return math.sqrt(all_reduce_(total(terms, like=gradient.buffers[0])).item())
