"""Alignments from the gradients of the training step itself, with no probes of the domains."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_dga.alignment.estimator import EstimatorRefusal, Measurement
from lightning_dga.alignment.estimators.rehearsal import unlike_alone
from lightning_dga.alignment.estimators.self_test import TOLERANCE
from lightning_dga.alignment.gradients.sums import DomainSums
from lightning_dga.alignment.gradients.target import target_gradient
from lightning_dga.alignment.per_sample.layer_products import LayerProducts, checked_rank
from lightning_dga.alignment.per_sample.plan import Plan, make_plan, signature
from lightning_dga.alignment.per_sample.watches import (
    Aim,
    PerSampleWatch,
    SingleDomainWatch,
    Watch,
    by_domain,
    watch_probes,
)
from lightning_dga.alignment.probing.compiled import eagerly, is_compiled
from lightning_dga.alignment.probing.probes import Probes
from lightning_dga.alignment.registry import register_estimator
from lightning_dga.core.alignments import Alignments
from lightning_dga.distributed import any_rank

_INSTEAD = "Use `estimator='backward'`."
_WATCHES_BETWEEN_CHECKS = 100
_MEASUREMENTS_BETWEEN_REHEARSALS = 10
_NO_DOMAINS: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
# the error of a missed use of a parameter is larger than that of the low-rank approximation
_TOLERANCE_OF_FACTORS = 5e-2


@dataclass
class _Open:
    """A measurement in progress."""

    module: nn.Module
    aims: dict[str, Aim]
    plan: Plan | None
    wanted: int
    seen: NDArray[np.int64] = field(repr=False)
    tolerance: float
    mismatch: str | None = None

    @property
    def sharded(self) -> bool:
        """Whether parameters are sharded."""
        return next(iter(self.aims.values())).target.gradient.sharded

    def per_sample(self, domains: NDArray[np.int64], factor: float, tolerance: float | None = None) -> Watch:
        """Starts the watch of a batch of many domains."""
        assert self.plan is not None
        return PerSampleWatch(self.module, list(self.aims.values()), self.plan.layers, domains, factor, tolerance)

    def single_domain(self, domains: NDArray[np.int64], factor: float) -> Watch:
        """Starts the watch of a batch of one domain."""
        return SingleDomainWatch(self.module, list(self.aims.values()), domains, factor)


@register_estimator("in_step")
class InStep:
    """Alignments from the backward passes of training itself; only the target gradient needs passes of its own.

    The target gradient is taken just before an optimizer step, at the parameters that the step starts from. During the
    step's own passes, the inner product of each sample's gradient (of the whole batch's, if that is of one domain) with
    it is taken, for at most as many samples of each domain as a probe would have. The step itself is not changed. The
    alignment is that of the training loss in training mode, with its dropout. A domain's count is the number of its
    samples that the step held; measurements of several steps can be averaged with these as weights.

    With several targets one watch takes the inner products with all of them; each takes the memory of one gradient.

    Batches of many domains are checked in two ways. For the first batch, and every hundredth after it, the samples'
    inner products must sum to that of the batch's own gradient. At the first measurement, and every tenth after it, the
    training step is rehearsed on probes, in training mode without noise: each domain's alignment must equal that of its
    samples alone. This refuses a step that shuffles, mixes, drops or weighs samples.

    Args:
        rank: As for :class:`~lightning_dga.alignment.Batched`.
        eager: Runs the watched passes of a compiled model without its compiled code, whose rounding is different, so
            that training is no longer bitwise what it would be without measurements. Otherwise a compiled model is
            watched only in batches of one domain.
    """

    def __init__(self, rank: int | None = None, *, eager: bool = False) -> None:
        self._rank = checked_rank(rank)
        self._eager = eager
        self._stances = ExitStack()
        self._open: _Open | None = None
        self._watch: Watch | None = None
        self._plan: tuple[Any, Plan] | None = None
        self._watched = _NO_DOMAINS
        self._watches = 0
        self._measurements = 0

    def begin(
        self,
        measurement: Measurement,
        stale: Sequence[int],
        *,
        pure: bool,
        targets: Mapping[str, Probes] | None = None,
    ) -> None:
        """See :class:`~lightning_dga.alignment.step_estimator.StepEstimator`."""
        self.abandon()
        with eagerly() if self._eager else nullcontext():
            self._open = self._opened(measurement, stale, targets or {"target": measurement.probes}, pure=pure)

    def _opened(
        self, measurement: Measurement, stale: Sequence[int], targets: Mapping[str, Probes], *, pure: bool
    ) -> _Open | None:
        plan = None if pure else self._plan_for(measurement)
        aims = {}
        for name, probes in targets.items():
            target = target_gradient(replace(measurement, probes=probes))
            if target is None:
                return None
            products = LayerProducts(target.gradient, plan.layers if plan is not None else (), self._rank)
            aims[name] = Aim(target, products, DomainSums(target, measurement.num_domains))
        tolerance = TOLERANCE[measurement.loss.precision(measurement.parameters)]
        if self._rank is not None:
            tolerance = max(tolerance, _TOLERANCE_OF_FACTORS)
        if plan is not None:
            self._rehearse(measurement, list(aims.values()), plan, tolerance)
        seen = np.zeros(measurement.num_domains, dtype=np.int64)
        opened = _Open(measurement.module, aims, plan, measurement.probes.size, seen, tolerance)
        if len(stale):
            opened.mismatch = _add_probes(opened, measurement, stale)
        return opened

    def watch(self, domains: NDArray[np.int64], factor: float) -> None:
        """See :class:`~lightning_dga.alignment.step_estimator.StepEstimator`."""
        # a watch that no backward pass has ended
        self.unwatch(None)
        opened = self._open
        if opened is None:
            return
        if opened.plan is None or (not opened.sharded and (domains == domains[0]).all()):
            self._watch = opened.single_domain(domains, factor)
            return
        wanted = _wanted(domains, opened.seen, opened.wanted)
        self._watched = wanted[wanted >= 0]
        # if parameters are sharded, all ranks take part in gathering the target gradient
        if len(self._watched) or opened.sharded:
            np.add.at(opened.seen, self._watched, 1)
            checked = opened.tolerance if self._watches % _WATCHES_BETWEEN_CHECKS == 0 else None
            self._watches += 1
            if self._eager:
                self._stances.enter_context(eagerly())
            self._watch = opened.per_sample(wanted, factor, checked)

    def unwatch(self, loss: Tensor | None) -> None:
        """See :class:`~lightning_dga.alignment.step_estimator.StepEstimator`."""
        if self._watch is None or self._open is None:
            return
        self._watch.remove()
        self._stances.close()
        if loss is None:
            np.subtract.at(self._open.seen, self._watched, 1)
        else:
            self._watch.add(loss)
            self._open.mismatch = self._open.mismatch or self._watch.mismatch
        self._watch, self._watched = None, _NO_DOMAINS

    def finish(self, step: int) -> Alignments | None:
        """See :class:`~lightning_dga.alignment.step_estimator.StepEstimator`."""
        opened = self._open
        self.abandon()
        if opened is None:
            return None
        device = next(iter(opened.aims.values())).target.gradient.buffers[0].device
        if any_rank(opened.mismatch is not None, device):
            raise EstimatorRefusal(f"in_step: {opened.mismatch or 'another rank found a mismatch'}. {_INSTEAD}")
        return Alignments.of_targets({name: aim.sums.alignments(step) for name, aim in opened.aims.items()})

    def abandon(self) -> None:
        """See :class:`~lightning_dga.alignment.step_estimator.StepEstimator`."""
        if self._watch is not None:
            self._watch.remove()
        self._stances.close()
        self._open = self._watch = None
        self._watched = _NO_DOMAINS

    def _rehearse(self, measurement: Measurement, aims: Sequence[Aim], plan: Plan, tolerance: float) -> None:
        number, self._measurements = self._measurements, self._measurements + 1
        if number % _MEASUREMENTS_BETWEEN_REHEARSALS:
            return
        turn = number // _MEASUREMENTS_BETWEEN_REHEARSALS
        problem = unlike_alone(measurement, aims[turn % len(aims)], plan.layers, tolerance, turn)
        if problem is not None:
            self._measurements = 0
            raise EstimatorRefusal(f"in_step: {problem}. {_INSTEAD}")

    def _plan_for(self, measurement: Measurement) -> Plan:
        known = signature(measurement)
        if self._plan is None or self._plan[0] != known or not self._plan[1].proven:
            self._check_modules(measurement.module)
            self._plan = known, _checked(make_plan(measurement), measurement)
        return self._plan[1]

    def _check_modules(self, model: nn.Module) -> None:
        modules = list(model.modules())
        if not self._eager and any(is_compiled(module) for module in modules):
            raise EstimatorRefusal(
                "in_step: a compiled model cannot be watched sample by sample. Use batches of one domain "
                "(`pure_batches=True`), or `estimator=InStep(eager=True)`, which runs watched steps without compiled "
                "code, so that their rounding is different, or `estimator='backward'`."
            )
        if any(isinstance(module, _BatchNorm) for module in modules):
            raise EstimatorRefusal(
                "in_step: batch normalisation couples the samples of a training batch. Use batches of one domain, or "
                f"{_INSTEAD[4:]}"
            )


def _checked(plan: Plan, measurement: Measurement) -> Plan:
    if plan.uncovered:
        names = {id(parameter): name for name, parameter in measurement.module.named_parameters()}
        missed = sorted(names.get(id(measurement.parameters[index]), str(index)) for index in plan.uncovered)
        shown = ", ".join(missed[:4]) + (", …" if len(missed) > 4 else "")
        raise EstimatorRefusal(
            f"in_step: not every use of {shown} can be seen sample by sample. Use batches of one domain, leave "
            f"them out with `parameters`, or {_INSTEAD[4:]}"
        )
    return plan


def _add_probes(opened: _Open, measurement: Measurement, domains: Sequence[int]) -> str | None:
    """Adds probes of some domains, in batches of many domains if samples can be watched one by one."""
    loss = measurement.loss
    if opened.plan is None:
        start, batches = opened.single_domain, by_domain(measurement, domains)
    else:
        start = opened.per_sample
        batches = ((probe.domains, probe.batch) for probe in measurement.probes.mixed(domains))
    return watch_probes(measurement, loss, batches, lambda own: start(own, loss.scale))


def _wanted(domains: NDArray[np.int64], seen: NDArray[np.int64], wanted: int) -> NDArray[np.int64]:
    """The domains, with -1 in place of those whose number of samples still wanted is exhausted."""
    order = np.argsort(domains, kind="stable")
    ordered = domains[order]
    rank = np.arange(len(domains)) - np.searchsorted(ordered, ordered)
    result = np.full_like(domains, -1)
    kept = order[rank + seen[ordered] < wanted]
    result[kept] = domains[kept]
    return result
