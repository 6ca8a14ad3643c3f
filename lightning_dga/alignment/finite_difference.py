"""Alignments without a backward pass for the domains: central differences of the loss along the target gradient."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dga.alignment.estimator import EstimatorRefusal, Measurement
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
    none agree, it refuses. It holds a copy of the parameters beside the target gradient, and sets them back to the bit.
    """

    def __init__(self) -> None:
        self._step: float | None = None
        self._measurements = 0

    def measure(self, measurement: Measurement) -> Alignments | None:
        """See :class:`~lightning_dga.alignment.estimator.Estimator`."""
        for parameter in measurement.parameters:
            if parameter.dtype.itemsize < torch.float32.itemsize:
                raise EstimatorRefusal(
                    f"finite_difference: the parameters are {parameter.dtype}, in which a small step is lost to "
                    "rounding. Use `estimator='backward'`."
                )
        target = target_gradient(measurement)
        if target is None:
            return None
        sums = DomainSums(target, measurement.num_domains)
        with torch.no_grad(), _Line(measurement.module, target) as line:
            rows = _Rows(measurement)
            step = self._checked_step(rows, line)
            probes = rows.probes()
            while chunk := list(islice(probes, _BATCHES_AT_ONCE)):
                slopes, losses = line.slopes([probe.batch for probe in chunk], rows.losses, step)
                for probe, slope, loss in zip(chunk, slopes, losses, strict=True):
                    domains, counts = rows.labels(probe, slope)
                    sums.add(domains, slope, loss, counts)
        return sums.alignments(measurement.step)

    def _checked_step(self, rows: "_Rows", line: "_Line") -> float:
        # a process may have no share of the probes, and takes part in what is decided together
        batches = [probe.batch for probe in islice(rows.probes(), 1)]
        due = self._measurements % _MEASUREMENTS_BETWEEN_CHECKS == 0
        self._measurements += 1
        if self._step is not None and (not due or line.disagreement(batches, rows.losses, self._step) < _AGREEMENT):
            return self._step
        errors = line.disagreements(batches, rows.losses, _STEPS)
        best = min(range(len(errors)), key=errors.__getitem__)
        if not errors[best] < _AGREEMENT:
            raise EstimatorRefusal(
                "finite_difference: no step is both long enough for the precision in use and short enough for the "
                f"loss's curvature (results over neighbouring steps differ by {errors[best]:.1%} at best). Use "
                "`estimator='backward'`, or more precision."
            )
        self._step = 2 * _STEPS[best]
        return self._step


class _Rows:
    """The probes, as mixed batches where the loss tells samples apart, else one domain in each batch."""

    def __init__(self, measurement: Measurement) -> None:
        self._loss: ProbeLoss = measurement.loss
        self._probes: Probes = measurement.probes
        self._share = 1.0
        self._of_samples = self._tells_samples_apart()
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

    def _tells_samples_apart(self) -> bool:
        try:
            self._loss.of_samples(next(self._probes.mixed()).batch, with_graph=False)
        except MeanLossError:
            return False
        return True


class _Line:
    """The parameters, moved along the target gradient and back."""

    def __init__(self, module: nn.Module, target: TargetGradient) -> None:
        self._module = module
        self._gradient = target.gradient
        self._norm = target.norm
        self._parts = [local_part(parameter.detach()) for parameter in target.gradient.parameters]
        self._device = self._parts[0].device

    def __enter__(self) -> "_Line":
        self._origin = [part.clone() for part in self._parts]
        terms = zip(self._gradient.parameters, self._origin, strict=True)
        squared = sum(part.double().square().sum() / holders(parameter) for parameter, part in terms)
        assert isinstance(squared, Tensor)
        # a process that holds all parameters counts its share of them
        self._scale = math.sqrt(sum_over_processes_(squared).item())
        return self

    def __exit__(self, *_: object) -> None:
        self._move_to(0.0)

    def slopes(self, batches: Sequence[Any], losses: _Losses, step: float) -> tuple[list[Tensor], list[Tensor]]:
        """Slope of the rows' losses along the target gradient, times its norm, and the losses; per batch."""
        width = step * self._scale
        ahead, behind = (self._losses_at(offset, batches, losses) for offset in (width, -width))
        factor = self._norm / (2 * width) if width else 0.0
        pairs = list(zip(ahead, behind, strict=True))
        return [(a - b) * factor for a, b in pairs], [(a + b) / 2 for a, b in pairs]

    def disagreement(self, batches: Sequence[Any], losses: _Losses, step: float) -> float:
        """Relative difference of the slopes over two steps around this one, a factor of 4 apart, on all processes."""
        return self.disagreements(batches, losses, (step / 2, step * 2))[0]

    def disagreements(self, batches: Sequence[Any], losses: _Losses, steps: Sequence[float]) -> list[float]:
        """The same between neighbours of a list of steps."""
        none = torch.zeros(0, dtype=torch.float64, device=self._device)
        found = [torch.cat([none, *self.slopes(batches, losses, step)[0]]) for step in steps]
        squares = torch.stack([torch.stack([(a - b).square().sum(), b.square().sum()]) for a, b in pairwise(found)])
        sum_over_processes_(squares)
        return (squares[:, 0] / squares[:, 1]).sqrt().nan_to_num(math.inf).tolist()

    def _losses_at(self, offset: float, batches: Sequence[Any], losses: _Losses) -> list[Tensor]:
        self._move_to(offset)
        return [self._loss_of(batch, losses) for batch in batches]

    def _loss_of(self, batch: Any, losses: _Losses) -> Tensor:
        # autocast keeps the cast weights of before the move
        torch.clear_autocast_cache()
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            # both ends of a difference draw the same random numbers
            torch.manual_seed(0)
            return losses(batch).double()

    def _move_to(self, offset: float) -> None:
        for parameter, part, origin in zip(self._gradient.parameters, self._parts, self._origin, strict=True):
            part.copy_(origin)
            if offset and self._norm:
                direction = self._gradient.view(parameter).view_as(part)
                part.add_(direction.to(part.dtype), alpha=offset / self._norm)
        # FSDP2 may hold the gathered parameters of before the move
        reshard(self._module)
