"""The automatic choice of an estimator for a model."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from lightning_dga.alignment.cost import TrainingStep
from lightning_dga.alignment.estimator import Estimator, EstimatorRefusal, Measurement
from lightning_dga.alignment.estimators.backward import Backward
from lightning_dga.alignment.estimators.batched import Batched
from lightning_dga.alignment.estimators.in_step import InStep
from lightning_dga.alignment.estimators.self_test import RehearsedStep, SomeDomains, mismatch
from lightning_dga.alignment.gradients.target import target_gradient
from lightning_dga.alignment.probing.compiled import is_compiled
from lightning_dga.alignment.probing.loss import ProbeLoss
from lightning_dga.alignment.registry import register_estimator
from lightning_dga.alignment.step_estimator import StepEstimator
from lightning_dga.core.alignments import Alignments
from lightning_dga.distributed import all_reduce_, is_sharded, to_local

UPDATES_BETWEEN_TESTS = 25
_TRIAL_SAMPLES = 32

_CANDIDATES: Mapping[str, Callable[[], Estimator]] = {"batched": Batched}


@register_estimator("auto")
class Auto:
    """Chooses the cheapest estimator that agrees with the reference on this model.

    If training steps contain enough samples of every domain, that is :class:`~lightning_dga.alignment.InStep`, provided
    that it passes its test. (A step of fewer samples tells as much for its work, but nothing of domains that the
    mixture does not draw, so that a wrong prior is found late.) Otherwise each candidate measures a few probes;
    candidates that differ from the reference or refuse are discarded, and of the rest the one with the fewest runs of
    the model is chosen, with ties going to the reference. Runs of the model are counted and nothing is timed, so that
    the choice does not depend on the speed of the machine and is the same on every rank.

    Every 25 updates the choice is tested again, on other domains than before, and replaced if it no longer passes. A
    new choice is also made when the parameters, their sharding, the precision or the compile state change.

    :class:`~lightning_dga.alignment.FiniteDifference` is not among the candidates: in single precision its error
    depends on the model and on the training stage, and keeping it within the tolerance costs more than it saves.

    Args:
        candidates: Factories of the estimators that may be chosen beside the reference, by name.
    """

    def __init__(self, candidates: Mapping[str, Callable[[], Estimator]] | None = None) -> None:
        self._candidates = dict(_CANDIDATES if candidates is None else candidates)
        self._fingerprint: Any = None
        self._chosen: tuple[str, Estimator | StepEstimator] = ("backward", Backward())
        self._updates = 0
        self._last_step: int | None = None
        self._restored: Mapping[str, Any] = {}
        self.reasons: dict[str, str] = {}

    @property
    def name(self) -> str:
        """Name of the estimator in use."""
        return self._chosen[0]

    def choose(
        self, measurement: Measurement, step: TrainingStep, training_loss: ProbeLoss | None, prefer: str | None = None
    ) -> Estimator | StepEstimator:
        """The estimator to measure with; every rank must call it.

        Args:
            measurement: A measurement to test the estimators on.
            step: The training step.
            training_loss: The loss that training backpropagates; ``None`` if training steps cannot be watched.
            prefer: Name of the estimator to choose if it passes its test, as when a run is resumed.
        """
        # the choice before training does not count as an update, and several targets count as one
        counted = self._fingerprint is not None and measurement.step != self._last_step
        self._last_step = measurement.step
        self._updates += counted
        fingerprint = _fingerprint(measurement)
        if fingerprint != self._fingerprint:
            self._fingerprint = fingerprint
            self._chosen = self._choose(measurement, step, training_loss, prefer)
        elif counted and self._updates % UPDATES_BETWEEN_TESTS == 0:
            self._test_again(measurement, step, training_loss)
        return self._chosen[1]

    def give_up(self, refusal: EstimatorRefusal) -> Estimator:
        """Uses the reference from now on, after the chosen estimator refused; every rank must call it."""
        self.reasons = {self.name: str(refusal), "backward": "it is the reference"}
        reference = Backward()
        self._chosen = "backward", reference
        return reference

    def state_dict(self) -> dict[str, Any]:
        """The number of updates, which determines the next test, and the chosen estimator's own state."""
        own = getattr(self._chosen[1], "state_dict", dict)
        return {"updates": self._updates, "chosen": own()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from :meth:`state_dict`; the choice itself is passed to :meth:`choose` as ``prefer``."""
        self._updates, self._restored = state["updates"], state["chosen"]

    def _choose(
        self, measurement: Measurement, step: TrainingStep, training_loss: ProbeLoss | None, prefer: str | None
    ) -> tuple[str, Estimator | StepEstimator]:
        reference = Backward()
        self.reasons = {"backward": "it is the reference"}
        if prefer not in ("in_step", "backward", *self._candidates):
            prefer = None
        few = self._some_domains(measurement)
        expected = reference.measure(few)
        if expected is None:
            self.reasons = {"backward": "the target gradient is not finite yet, so nothing else could be tested"}
            self._fingerprint = None
            return "backward", reference
        enough = step.samples >= measurement.probes.samples
        if training_loss is not None and enough and prefer in (None, "in_step"):
            problem = mismatch(RehearsedStep(InStep(), training_loss, pure=step.pure), few, expected)
            self.reasons["in_step"] = problem or "a training step holds enough samples of the domains"
            if problem is None:
                return "in_step", InStep()
        elif training_loss is not None:
            self.reasons["in_step"] = (
                f"a training step holds {step.samples} samples, probes have {measurement.probes.samples}"
            )
        passed: dict[str, Estimator] = {"backward": reference} | self._tested(few, expected)
        if prefer in passed:
            if self._restored:
                passed[prefer].load_state_dict(self._restored)  # type: ignore[attr-defined]
                self._restored = {}
            return prefer, passed[prefer]
        return self._cheapest(few, passed)

    def _tested(self, few: Measurement, expected: Alignments) -> dict[str, Estimator]:
        passed = {}
        for name, make in self._candidates.items():
            estimator = make()
            problem = mismatch(estimator, few, expected)
            if problem is None:
                passed[name] = estimator
            else:
                self.reasons[name] = problem
        return passed

    def _cheapest(self, few: Measurement, passed: Mapping[str, Estimator]) -> tuple[str, Estimator]:
        if len(passed) == 1:
            return "backward", passed["backward"]
        runs = _runs(few, passed)
        # ties go to the reference, which is the first
        name = min(passed, key=lambda name: runs[name])
        for tried in passed:
            self.reasons[tried] = f"{runs[tried]:,} runs of the model for {few.probes.samples:,} samples of domains"
        return name, passed[name]

    def _test_again(self, measurement: Measurement, step: TrainingStep, training_loss: ProbeLoss | None) -> None:
        name, estimator = self._chosen
        if name == "backward":
            return
        few = self._some_domains(measurement)
        expected = Backward().measure(few)
        if expected is None:
            return
        if isinstance(estimator, StepEstimator):
            # a new instance, because the one in use may have an open measurement
            tested: Estimator | None = (
                RehearsedStep(InStep(), training_loss, pure=step.pure) if training_loss is not None else None
            )
        else:
            tested = estimator
        problem = "training steps cannot be watched any more" if tested is None else mismatch(tested, few, expected)
        if problem is not None:
            self._chosen = self._choose(measurement, step, None, None)
            self.reasons[name] = f"no longer, after {self._updates} updates: {problem}"

    def _some_domains(self, measurement: Measurement) -> Measurement:
        """A few of the domains, different ones at each test, so that all of them are tested in rotation."""
        k = measurement.num_domains
        size = max(measurement.probes.samples / k, 1)
        number = min(k, max(2, round(_TRIAL_SAMPLES / size)))
        shift = self._updates // UPDATES_BETWEEN_TESTS
        domains = sorted({(k * i // number + shift) % k for i in range(number)})
        return replace(measurement, probes=SomeDomains(measurement.probes, domains))


def _runs(few: Measurement, estimators: Mapping[str, Estimator]) -> dict[str, int]:
    """How often each estimator runs the model for the domains' samples, over all ranks."""
    counts = []
    for measure in (target_gradient, *(one.measure for one in estimators.values())):
        before = few.loss.runs
        measure(few)
        counts.append(few.loss.runs - before)
    device = to_local(few.parameters[0]).device
    target, *whole = all_reduce_(torch.tensor(counts, device=device)).tolist()
    return {name: runs - target for name, runs in zip(estimators, whole, strict=True)}


def _fingerprint(measurement: Measurement) -> Any:
    """What a choice holds for."""
    parameters = [(tuple(p.shape), p.dtype, is_sharded([p])) for p in measurement.parameters]
    compiled = [type(m) for m in measurement.module.modules() if is_compiled(m)]
    return parameters, len(measurement.excluded), compiled, measurement.loss.precision(measurement.parameters)
