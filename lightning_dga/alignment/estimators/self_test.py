"""Tests an estimator on the model at hand, by comparing it with the reference on a few probes."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from lightning_dga.alignment.estimator import Estimator, EstimatorRefusal, Measurement
from lightning_dga.alignment.gradients.gradient import visit_gradients
from lightning_dga.alignment.per_sample.watches import by_domain
from lightning_dga.alignment.probing.loss import ProbeLoss
from lightning_dga.alignment.probing.probes import ProbeBatch, Probes
from lightning_dga.alignment.step_estimator import StepEstimator
from lightning_dga.core.alignments import Alignments
from lightning_dga.distributed import any_rank, failing_together

# the reference runs in the same precision, so both have its rounding errors
TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 2e-2}


@dataclass(frozen=True)
class SomeDomains:
    """The probes of a few of the domains."""

    probes: Probes
    domains: Sequence[int]

    @property
    def batch_size(self) -> int:
        """See :class:`~lightning_dga.alignment.probing.probes.Probes`."""
        return self.probes.batch_size

    @property
    def size(self) -> int:
        """See :class:`~lightning_dga.alignment.probing.probes.Probes`."""
        return self.probes.size

    @property
    def samples(self) -> int:
        """Approximate number of samples over all ranks."""
        return self.probes.samples

    @property
    def target_samples(self) -> int:
        """Number of target samples over all ranks."""
        return self.probes.target_samples

    def target(self) -> Iterator[ProbeBatch]:
        """See :class:`~lightning_dga.alignment.probing.probes.Probes`."""
        return self.probes.target()

    def by_domain(self, only: Sequence[int] | None = None) -> Iterator[ProbeBatch]:
        """See :class:`~lightning_dga.alignment.probing.probes.Probes`."""
        return self.probes.by_domain(self._of(only))

    def mixed(
        self, only: Sequence[int] | None = None, most: int | None = None, *, in_turn: bool = False
    ) -> Iterator[ProbeBatch]:
        """See :class:`~lightning_dga.alignment.probing.probes.Probes`."""
        return self.probes.mixed(self._of(only), most, in_turn=in_turn)

    def whole(self) -> "SomeDomains":
        """See :class:`~lightning_dga.alignment.probing.probes.Probes`."""
        return SomeDomains(self.probes.whole(), self.domains)

    def in_batches_of(self, most: int) -> "SomeDomains":
        """See :class:`~lightning_dga.alignment.probing.probes.Probes`."""
        return SomeDomains(self.probes.in_batches_of(most), self.domains)

    def _of(self, only: Sequence[int] | None) -> Sequence[int]:
        return self.domains if only is None else [domain for domain in self.domains if domain in only]


class RehearsedStep:
    """Adapts a step estimator to the estimator protocol: it watches training-like passes over the probes.

    Args:
        estimator: The step estimator.
        loss: The loss that training backpropagates.
        pure: Whether each training batch is of a single domain.
    """

    def __init__(self, estimator: StepEstimator, loss: ProbeLoss, *, pure: bool) -> None:
        self._estimator = estimator
        self._loss = loss
        self._pure = pure

    def measure(self, measurement: Measurement) -> Alignments | None:
        """See :class:`~lightning_dga.alignment.estimator.Estimator`."""
        estimator, probes = self._estimator, measurement.probes
        estimator.begin(measurement, stale=(), pure=self._pure)
        try:
            mixed = ((probe.domains, probe.batch) for probe in probes.mixed())
            for domains, batch in by_domain(measurement) if self._pure else mixed:
                estimator.watch(domains, factor=self._loss.scale)
                loss = self._loss(batch) * self._loss.scale
                # not `backward()`, whose gradients DistributedDataParallel would count as those of training
                visit_gradients(loss, measurement.parameters, lambda *_: None, measurement.excluded)
                estimator.unwatch(loss.detach())
            return estimator.finish(measurement.step)
        finally:
            estimator.abandon()


def mismatch(estimator: Estimator, measurement: Measurement, expected: Alignments) -> str | None:
    """Why an estimator's result is rejected; ``None`` if it agrees with the reference. Every rank must call it.

    Args:
        estimator: The estimator to test.
        measurement: The measurement.
        expected: The reference's result for the same measurement.

    Returns:
        The reason: the estimator's refusal, an error, or the size of the difference.
    """
    problem = _own_fault(estimator, measurement, expected)
    if any_rank(problem is not None, measurement.parameters[0].device):
        return problem or "it failed on another process"
    return None


def _own_fault(estimator: Estimator, measurement: Measurement, expected: Alignments) -> str | None:
    try:
        with failing_together(measurement.parameters[0].device, (EstimatorRefusal,)):
            found = estimator.measure(measurement)
    except EstimatorRefusal as refusal:
        return str(refusal)
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    if found is None or not torch.equal(found.counts, expected.counts):
        return "it did not measure the same samples as the reference"
    precision = measurement.loss.precision(measurement.parameters)
    off, tolerance = relative_error(found, expected, precision), TOLERANCE[precision]
    return None if off <= tolerance else f"it differs from the reference by {off:.1%}, more than {tolerance:.1%}"


def relative_error(found: Alignments, expected: Alignments, precision: torch.dtype) -> float:
    """The norm of the differences over the domains, in units of the norm of the alignments.

    In half precision, where a gradient has two or three significant digits, alignments that are small relative to the
    gradients' norms have none. There the unit is the squared norm of the target gradient, if that is larger.

    Args:
        found: The estimator's result.
        expected: The reference's result for the same samples.
        precision: The dtype that the loss is computed in.
    """
    unit = expected.values.nan_to_num().norm().item()
    if precision.itemsize < torch.float32.itemsize:
        unit = max(unit, expected.target_norm**2)
    difference = (found.values - expected.values).nan_to_num().norm().item()
    return difference / unit if unit else math.inf if difference else 0.0
