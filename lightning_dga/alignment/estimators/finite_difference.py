"""Alignments without backward passes for the domains: central differences of the loss along the target gradient."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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

# the longest displacement to try, in units of the parameters' norm, and the number of halvings of it
_LONGEST, _HALVINGS = 2.0**-5, 18
_BATCHES_OF_SEARCH = 4
_BATCHES_AT_ONCE = 16

_Losses = Callable[[Any], Tensor]


@register_estimator("finite_difference")
class FiniteDifference:
    """Alignments from forward passes only: slopes of the domains' losses along the target gradient.

    A slope is ``s(h) = |G| (L_i(θ + h G/|G|) - L_i(θ - h G/|G|)) / 2h``. With too short a step ``h`` rounding errors
    dominate, with too long a step curvature does, and if the loss has kinks, or in single precision, no step may be
    accurate enough. So every measurement uses two steps and the loss at θ itself, five forward passes in all, and the
    Richardson extrapolation ``(4 s(h) - s(2h)) / 3``. Its error is estimated from

    - the difference between the slopes of the two steps, which shows rounding and curvature,
    - the difference between the loss extrapolated from the two steps and the loss at θ, which shows kinks,
    - one domain in rotation that is measured by the reference too.

    If the estimate exceeds the tolerance of the precision in use
    (:data:`~lightning_dga.alignment.estimators.self_test.TOLERANCE`, relative to the norm of all alignments), the step
    is chosen again; if no step is accurate enough, this measurement and all later ones are refused.

    Five forward passes cost more than one forward and backward pass, so this pays only with many domains, a loss with
    one value per sample, and a model that :class:`~lightning_dga.alignment.Batched` cannot cover, such as a recurrent
    network.

    Memory is one gradient: while the parameters are displaced, their original values are kept in the buffer of the
    target gradient, and they are restored bit for bit.
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
        """The state that the next measurement depends on."""
        return {"step": self._step, "measurements": self._measurements, "refused": self._refused}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from :meth:`state_dict`."""
        self._step, self._measurements, self._refused = state["step"], state["measurements"], state["refused"]


class InexactError(EstimatorRefusal):
    """An estimator found its own results to be outside of the tolerance."""


@dataclass(frozen=True)
class _Found:
    """Alignments, and an estimate of their relative error."""

    alignments: Alignments
    error: float


def _differences(measurement: Measurement, rows: "_Rows", step: float, checked: int) -> _Found | None:
    """Alignments from steps of ``step`` and twice that; ``None`` if the target gradient is not finite.

    Domain ``checked`` is measured by the reference too.
    """
    target = target_gradient(measurement)
    if target is None:
        return None
    k = measurement.num_domains
    # before `_Line` overwrites the gradient
    reference, extrapolated, long = DomainSums(target, k), DomainSums(target, k), DomainSums(target, k)
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
                # a bound on the error of the extrapolated slope for a loss with one kink
                bend = (4 * near.losses - far.losses - 3 * here) * line.slope_of(step)
                bound = bend.abs() + (near.values - far.values).abs()
                extrapolated.add(domains, (4 * near.values - far.values) / 3, here, counts, share=rows.share)
                long.add(domains, far.values, far.losses, counts, share=rows.share)
                bounds.add(domains, bound.square(), None, counts, share=rows.share)
    exact, one, other, squared = (sums.alignments(measurement.step) for sums in (reference, extrapolated, long, bounds))
    values = one.values
    # errors by rounding and kinks are independent between samples
    independent = squared.values / (one.counts.clamp(min=1) if rows.of_samples else 1)
    # each error estimate is doubled, because it is itself random
    apart = 1.8 * (values - other.values).nan_to_num().norm().item()
    off = 2 * (exact.values - values)[checked].nan_to_num().abs().item()
    kinks = 2 * independent.nan_to_num().sum().sqrt().item()
    worst, norm = max(apart, off, kinks), values.nan_to_num().norm().item()
    error = worst / norm if norm else math.inf if worst else 0.0
    return _Found(one, error)


def _best_step(measurement: Measurement, rows: "_Rows") -> float | None:
    """The shorter of the two neighbouring steps whose slopes agree best, the same on all ranks; ``None`` if none do."""
    target = target_gradient(measurement)
    if target is None:
        return None
    if target.norm == 0:
        return _LONGEST
    squares = target.gradient.accumulator(_HALVINGS - 1, 2)
    # a rank may have no probes of its own, but must take part in the all-reduce
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
    """The probes: mixed batches if the loss has one value per sample, else batches of one domain each."""

    def __init__(self, measurement: Measurement, of_samples: bool) -> None:
        self._loss: ProbeLoss = measurement.loss
        self._probes: Probes = measurement.probes
        self.share = 1.0
        self.of_samples = of_samples
        if not self.of_samples and is_sharded(measurement.parameters):
            # ranks must run the same passes, so all of them measure all domains
            self._probes, self.share = measurement.probes.whole(), 1 / world_size()

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
        return domains[:1], torch.full_like(slope, len(domains))


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
    """Displaces the parameters along the target gradient to both ends of a step, and restores them.

    Args:
        module: The module of the parameters.
        target: The target gradient; its buffer is overwritten.
        step: Half-width of the longest step, in units of the parameters' norm.
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
            # the buffer of the gradient takes the original parameter
            moved = view.mul_(factor).add_(part).clone()
            view.copy_(part)
            self._moved += 1
            part.copy_(moved)
        # FSDP2 may still hold the gathered parameters from before the displacement
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
        """The factor that turns a central difference over a step into a slope times the target gradient's norm."""
        return self._factor(step * self._unit)

    def _factor(self, width: float) -> float:
        # if the parameters or the target gradient are zero, both ends coincide
        return self._norm / (2 * width) if width else 0.0

    def halve(self) -> None:
        """Halves the step."""
        self._stretch(0.5)

    @torch.no_grad()
    def _stretch(self, factor: float) -> None:
        for part, origin in zip(self._parts, self._views, strict=True):
            # the difference of nearby floats is exact, and so is doubling after halving
            part.sub_(origin).mul_(factor).add_(origin)
        self._width *= factor
        reshard(self._module)


def _loss_of(batch: Any, losses: _Losses, target: TargetGradient) -> Tensor:
    # autocast caches the cast weights from before a displacement
    torch.clear_autocast_cache()
    device = target.gradient.buffers[0].device
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
        # both ends of a difference use the same random numbers
        torch.manual_seed(0)
        return losses(batch).double()


def _norm(gradient: FlatGradient) -> float:
    """The norm of the parameters of a gradient, over all ranks."""
    parts = ((parameter, to_local(parameter.detach())) for parameter in gradient.parameters)
    # a rank that holds unsharded parameters counts its share of them
    # no copy of a parameter, which may be a large part of the model
    terms = [torch.dot(part.reshape(-1), part.reshape(-1)) / replicas(parameter) for parameter, part in parts]
    return math.sqrt(all_reduce_(total(terms, like=gradient.buffers[0])).item())
