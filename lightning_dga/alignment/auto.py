"""The estimator that chooses one for the model at hand."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from lightning_dga.alignment.backward import Backward
from lightning_dga.alignment.batched import Batched
from lightning_dga.alignment.compiled import is_compiled
from lightning_dga.alignment.cost import TrainingStep
from lightning_dga.alignment.estimator import Estimator, Measurement
from lightning_dga.alignment.finite_difference import FiniteDifference
from lightning_dga.alignment.in_step import InStep
from lightning_dga.alignment.loss import ProbeLoss
from lightning_dga.alignment.self_test import RehearsedStep, SomeDomains, fault
from lightning_dga.alignment.step_estimator import StepEstimator
from lightning_dga.alignment.target import target_gradient
from lightning_dga.alignments import Alignments
from lightning_dga.distributed import is_sharded, local_part, sum_over_processes_

_TRIAL_SAMPLES = 32
_TRIAL_ROUNDS = 3
# the reference is given up only for what is clearly faster
_CLEARLY = 0.95

_CANDIDATES: Mapping[str, Callable[[], Estimator]] = {
    "batched": Batched,
    "finite_difference": FiniteDifference,
}


class Auto:
    """Chooses the cheapest estimator that agrees with the reference on this model.

    Where training steps hold enough samples of every domain, that is :class:`~lightning_dga.alignment.InStep`. Else
    each estimator measures a few probes; those that differ from the reference, or refuse, are out, and the fastest of
    the rest is taken. It chooses again when the parameters, their sharding, the precision or the compile state change.

    The trial is timed, so two runs may choose differently, and then differ by rounding; where
    ``torch.use_deterministic_algorithms`` is on, the reference is taken.

    Args:
        candidates: Makes each estimator that may be chosen beside the reference, by name.
    """

    def __init__(self, candidates: Mapping[str, Callable[[], Estimator]] | None = None) -> None:
        self._candidates = dict(_CANDIDATES if candidates is None else candidates)
        self._fingerprint: Any = None
        self._chosen: tuple[str, Estimator | StepEstimator] = ("backward", Backward())
        self.reasons: dict[str, str] = {}

    @property
    def name(self) -> str:
        """Name of the estimator in use."""
        return self._chosen[0]

    def choose(
        self, measurement: Measurement, step: TrainingStep, training_loss: ProbeLoss | None, prefer: str | None = None
    ) -> Estimator | StepEstimator:
        """The estimator to measure with; every process must call it together.

        Args:
            measurement: A measurement to try the estimators on.
            step: The training step.
            training_loss: What training takes the gradient of; ``None`` where its steps cannot be watched.
            prefer: Name of the one to take without a trial if it passes its test, as when a run is resumed.
        """
        fingerprint = _fingerprint(measurement)
        if fingerprint != self._fingerprint:
            self._fingerprint = fingerprint
            self._chosen = self._choose(measurement, step, training_loss, prefer)
        return self._chosen[1]

    def give_up(self, refusal: str) -> Estimator:
        """Takes the reference from now on, after the chosen estimator refused; every process must call it together."""
        self.reasons = {self.name: refusal, "backward": "it is the reference"}
        reference = Backward()
        self._chosen = "backward", reference
        return reference

    def _choose(
        self, measurement: Measurement, step: TrainingStep, training_loss: ProbeLoss | None, prefer: str | None
    ) -> tuple[str, Estimator | StepEstimator]:
        reference = Backward()
        self.reasons = {"backward": "it is the reference"}
        few = _some_domains(measurement)
        expected = reference.measure(few)
        if expected is None:
            self.reasons = {"backward": "the target gradient is not finite yet, so nothing else could be tested"}
            self._fingerprint = None
            return "backward", reference
        enough = step.samples >= measurement.probes.samples
        if training_loss is not None and enough and prefer in (None, "in_step"):
            problem = fault(RehearsedStep(InStep(), training_loss, pure=step.pure), few, expected)
            self.reasons["in_step"] = problem or "a training step holds enough samples of the domains"
            if problem is None:
                return "in_step", InStep()
        elif training_loss is not None:
            self.reasons["in_step"] = (
                f"a training step holds {step.samples} samples, probes have {measurement.probes.samples}"
            )
        passed: dict[str, Estimator] = {"backward": reference}
        if not torch.are_deterministic_algorithms_enabled():
            passed |= self._tested(few, expected)
        if prefer in passed:
            return prefer, passed[prefer]
        return self._fastest(few, passed)

    def _tested(self, few: Measurement, expected: Alignments) -> dict[str, Estimator]:
        passed = {}
        for name, make in self._candidates.items():
            estimator = make()
            problem = fault(estimator, few, expected)
            if problem is None:
                passed[name] = estimator
            else:
                self.reasons[name] = problem
        return passed

    def _fastest(self, few: Measurement, passed: Mapping[str, Estimator]) -> tuple[str, Estimator]:
        if len(passed) == 1:
            return "backward", passed["backward"]
        seconds = _trial(few, passed)
        name = min(passed, key=lambda name: seconds[name] * (_CLEARLY if name == "backward" else 1.0))
        for tried in passed:
            self.reasons[tried] = f"{seconds[tried] / seconds['backward']:.2f} times the reference's time for domains"
        return name, passed[name]


def _trial(few: Measurement, estimators: Mapping[str, Estimator]) -> dict[str, float]:
    """Seconds that each spends on the domains' samples, going by the least of some rounds, summed over processes."""
    measures: list[Callable[[Measurement], Any]] = [target_gradient, *(one.measure for one in estimators.values())]
    rounds = torch.tensor(
        [[_seconds(partial(measure, few)) for measure in measures] for _ in range(_TRIAL_ROUNDS)], dtype=torch.float32
    )
    # each call's own least: a round in which one of them was disturbed says nothing of the others
    target, *whole = sum_over_processes_(rounds.amin(0).to(local_part(few.parameters[0]).device)).tolist()
    return {name: max(seconds - target, seconds / 100) for name, seconds in zip(estimators, whole, strict=True)}


def _seconds(call: Callable[[], Any]) -> float:
    _synchronize()
    started = time.perf_counter()
    call()
    _synchronize()
    return time.perf_counter() - started


def _synchronize() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _some_domains(measurement: Measurement) -> Measurement:
    k = measurement.num_domains
    size = max(measurement.probes.samples / k, 1)
    number = min(k, max(2, round(_TRIAL_SAMPLES / size)))
    domains = [k * i // number for i in range(number)]
    return replace(measurement, probes=SomeDomains(measurement.probes, domains))


def _fingerprint(measurement: Measurement) -> Any:
    """What a choice holds for."""
    parameters = [(tuple(p.shape), p.dtype, is_sharded([p])) for p in measurement.parameters]
    compiled = [type(m) for m in measurement.module.modules() if is_compiled(m)]
    return parameters, len(measurement.bystanders), compiled, measurement.loss.precision(measurement.parameters)
