"""Measurements under the precision, devices and batch transfer of the training, which is left as it was."""

import copy
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from lightning_dga.alignment import (
    Auto,
    Backward,
    Cost,
    Estimator,
    EstimatorRefusal,
    Losses,
    LossFunction,
    Measurement,
    NamedProbes,
    NoEvaluationLossError,
    ProbeLoss,
    Probes,
    StepEstimator,
    TrainingStep,
    adam_preconditioner,
    check_evaluation_loss,
    isolated,
    target_loss,
)
from lightning_dga.core.alignments import Alignments
from lightning_dga.distributed import is_sharded, world_size
from lightning_dga.engine.errors import ConfigurationError
from lightning_dga.engine.estimator_choice import EstimatorChoice, FixedEstimator, estimator_name
from lightning_dga.engine.probe_memory import ProbeMemoryError, together
from lightning_dga.engine.protocols import Mixture, Training

_T = TypeVar("_T")

# factor by which the loss scale is lowered, repeatedly, until the target gradient does not overflow float16
_LOWER = 256.0


@dataclass(frozen=True)
class Settings:
    """What is measured, and on how many samples; see :class:`~lightning_dga.DynamicGradientAlignment`."""

    probe_batch_size: int
    parameters: str | None = None
    preconditioner: str | None = None
    max_age: int = 20
    # samples of domains that no watched step held lately, in units of the target's samples
    probed_share: float = 0.0
    # whether the rule needs the loss of each domain
    losses: bool = False


class Measurer:
    """Runs an estimator on the model in training, during its training steps or after them.

    Args:
        estimator: The estimator, or :class:`~lightning_dga.alignment.Auto`, which chooses one.
        settings: What is measured.

    Attributes:
        mixtures: Mixtures of the domains, ``[N, k]``, measured in place of the domains if the rule asks for them.
    """

    _training: Training
    _mixture: Mixture

    def __init__(self, estimator: Estimator | StepEstimator | Auto, settings: Settings) -> None:
        self.estimator = estimator
        self.mixtures: Tensor | None = None
        self._preferred: str | None = None
        self._settings = settings
        # a copy from before any measurement, so that copies and pickles hold no reference to a model
        self._unused = copy.copy(estimator)
        self._prepare_for_a_run()

    def _prepare_for_a_run(self) -> None:
        self._choice = _choice_of(self.estimator)
        self._in_steps: StepEstimator | None = None
        self._used = False
        self._open = False
        self._seconds = 0.0
        self._loss: Tensor | None = None
        self._checked = False
        self._most: int | None = None
        self._announced = False
        self._origins: dict[int, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Settings and the chosen estimator's name, without any reference to a model."""
        return {
            "estimator": copy.copy(self._unused),
            "mixtures": self.mixtures,
            "_preferred": self.chosen,
            "_settings": self._settings,
            "_unused": self._unused,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores the settings, in the state before any measurement."""
        vars(self).update(state)
        self._prepare_for_a_run()

    @property
    def chosen(self) -> str | None:
        """Name of the estimator in use; before the first choice, of the one that the resumed run had chosen."""
        return self._choice.name if self._used else self._preferred

    @property
    def described(self) -> str:
        """The estimator's name for display, with the one that ``auto`` has chosen."""
        name = estimator_name(self.estimator)
        return f"{name!r} ({self.chosen})" if self.chosen not in (None, name) else repr(name)

    def state_dict(self) -> dict[str, Any]:
        """The estimator's state, and the largest probe batch that is known to fit into memory."""
        own = getattr(self.estimator, "state_dict", dict)
        return {"estimator": estimator_name(self.estimator), "own": own(), "most": self._most}

    def resume(self, chosen: str | None, state: Mapping[str, Any]) -> None:
        """Continues from a checkpoint; the state of a different estimator is ignored.

        Args:
            chosen: The checkpoint's :attr:`chosen`.
            state: Its :meth:`state_dict`; empty before the first measurement.
        """
        self._preferred = chosen
        if not state:
            return
        self._most = state["most"]
        if state["estimator"] != estimator_name(self.estimator):
            self._preferred = None
        elif state["own"]:
            self.estimator.load_state_dict(state["own"])  # type: ignore[union-attr]

    def start(self, training: Training, mixture: Mixture) -> None:
        """Takes the training and the mixture that are measured until :meth:`release`."""
        self._training, self._mixture = training, mixture

    def prepare(self, update: int) -> None:
        """Chooses the estimator for a run.

        Args:
            update: Number of updates done.

        Raises:
            ConfigurationError: If the user's estimator cannot measure this training.
        """
        self._choice = _choice_of(self.estimator)
        if self._mixture.target_names:
            self._check_estimator()
            self._in_memory(update, self._choose)
        else:
            self._choice = FixedEstimator(Losses())
            self._used = True

    def cost(self) -> Cost:
        """The cost of an update relative to one training step, by the estimator that is chosen or is likely to be."""
        probes = self._mixture.probes(0, self._settings.probe_batch_size, mixtures=self.mixtures)
        watched = self._steps_can_be_watched and self._step.samples >= probes.samples
        k, targets = self._measured, len(self._mixture.target_names)
        return Cost(
            domains=k,
            period=1,
            batch_size=self._step.samples,
            probe_batch_size=probes.samples / k,
            target_batch_size=probes.target_samples if targets else 0,
            targets=max(targets, 1),
            estimator=self.chosen or ("in_step" if watched else "backward"),
            probed_domains=self._rotated(probes),
            pure=self._step.pure,
            processes=world_size(),
            sharded=is_sharded(self._training.module.parameters()),
        )

    def release(self) -> None:
        """Aborts a measurement in progress, restores the model, and holds no reference to the training any more."""
        if self._in_steps is not None:
            self._in_steps.abandon()
        self._open = False
        vars(self).pop("_training", None)
        vars(self).pop("_mixture", None)

    def _check_estimator(self) -> None:
        if not isinstance(self.estimator, StepEstimator):
            return
        name = estimator_name(self.estimator)
        if self._settings.losses:
            raise ConfigurationError(
                f"`estimator='{name}'` does not measure the loss of each domain, which `rule` needs. Use "
                "`estimator='auto'`, or leave the target out."
            )
        if self.mixtures is not None:
            raise ConfigurationError(
                f"`estimator='{name}'` measures the samples of training steps: it cannot measure mixtures of "
                "domains. Use `estimator='auto'`."
            )
        if not self._steps_can_be_watched:
            raise ConfigurationError(
                f"`estimator='{name}'` watches the single backward pass of a training step: it cannot watch "
                "manual optimization or several optimizers. Use `estimator='auto'`."
            )

    def before_batch(self, update: int, earlier: Alignments | None, *, due: bool) -> None:
        """Opens a measurement if the next optimizer step is ``due`` for one, and watches the batch if one is open.

        Args:
            update: Number of updates done.
            earlier: The latest alignments, whose ages tell which domains have to be probed.
            due: Whether the next optimizer step is followed by an update.
        """
        if self._in_steps is None or not (due or self._open):
            return
        started = time.perf_counter()
        if not self._open:
            self._in_memory(update, lambda measurement: self._begin(update, measurement, earlier))
        if self._open:
            batch, training = self._mixture.current_batch, self._training
            assert batch is not None
            self._in_steps.watch(batch.domains, training.loss_scale / training.accumulated_batches)
        self._seconds += time.perf_counter() - started

    def _begin(self, update: int, measurement: Measurement, earlier: Alignments | None) -> None:
        self._choose(measurement)
        if self._in_steps is None:
            return
        stale = self._stale(measurement, earlier)
        try:
            with together(self._training.device):
                names = self._mixture.target_names
                targets = {name: self._probes(update, number) for number, name in enumerate(names)}
                self._in_steps.begin(measurement, stale, pure=self._step.pure, targets=targets)
        except EstimatorRefusal as refusal:
            self._do_without(refusal)
        else:
            self._open = True

    def _stale(self, measurement: Measurement, earlier: Alignments | None) -> list[int]:
        """The domains to probe: those that were in no watched step for too long, and a few others in rotation."""
        if earlier is None:
            return []
        oldest = earlier.ages.argsort(descending=True, stable=True)[: self._rotated(measurement.probes)]
        rotated = oldest[earlier.ages[oldest] > 0]
        overdue = (earlier.ages >= self._settings.max_age).nonzero().flatten()
        found: list[int] = torch.cat([rotated, overdue]).unique().tolist()
        return found

    def _rotated(self, probes: Probes) -> int:
        """Number of domains to probe in rotation in an update."""
        domains, share = len(self._mixture.domain_names), self._settings.probed_share
        return min(math.ceil(share * probes.target_samples * domains / probes.samples), domains)

    def before_backward(self, loss: Tensor) -> None:
        """Keeps the loss that is about to be backpropagated."""
        self._loss = loss.detach()

    def after_backward(self) -> None:
        """Stops watching the batch."""
        if self._open and self._in_steps is not None and self._loss is not None:
            self._in_steps.unwatch(self._loss)
        self._loss = None

    def end_batch(self) -> None:
        """Stops watching a batch that had no backward pass because ``training_step`` or an earlier hook skipped it."""
        if self._in_steps is not None:
            self._in_steps.unwatch(None)

    def measure(self, update: int, earlier: Alignments | None) -> Alignments | None:
        """The alignments for an update, right after an optimizer step.

        Args:
            update: Number of updates done.
            earlier: The latest alignments, which are carried over for domains that were not in a watched step.

        Returns:
            The alignments; ``None`` if the target gradient is not finite.
        """
        if self._open and self._in_steps is not None:
            self._open = False
            try:
                with together(self._training.device):
                    in_step = self._in_steps.finish(self._training.optimizer_steps - 1)
            except EstimatorRefusal as refusal:
                self._do_without(refusal)
            else:
                return in_step.carrying(earlier) if in_step is not None else None
        if not self._mixture.target_names:
            return self._in_memory(update, Losses().measure)
        found: dict[str, Alignments] = {}
        for number, name in enumerate(self._mixture.target_names):
            of_target = self._in_memory(update, self._measure_target, number)
            if of_target is None:
                return None
            found[name] = of_target
        return Alignments.of_targets(found)

    def target_losses(self, update: int) -> dict[str, float]:
        """The loss of each target by name, from forward passes only."""
        names = self._mixture.target_names
        return {name: self._in_memory(update, target_loss, number) for number, name in enumerate(names)}

    def take_seconds(self) -> float:
        """Seconds spent in :meth:`before_batch` since the last call; resets the counter."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    @property
    def _measured(self) -> int:
        """Number of domains, or of the mixtures that are measured in their place."""
        return len(self._mixture.domain_names if self.mixtures is None else self.mixtures)

    @property
    def _step(self) -> TrainingStep:
        mixture = self._mixture
        samples = mixture.batch_size * world_size() * self._training.accumulated_batches
        return TrainingStep(samples, mixture.pure_batches or mixture.batch_size == 1)

    @property
    def _steps_can_be_watched(self) -> bool:
        return self._training.has_one_backward and not self._settings.losses and self.mixtures is None

    def _choose(self, measurement: Measurement) -> Estimator:
        """Chooses the estimator; returns the one that measures by probes, if the next training step is not watched."""
        before = self._choice.name if self._used else None
        watched = measurement.training_loss if self._steps_can_be_watched else None
        chosen = self._choice.choose(measurement, self._step, watched, self._preferred)
        self._used = True
        if self._choice.reasons and self._choice.name != before:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self._choice.reasons.items())
            self._training.inform(f"Alignments will be measured by `estimator='{self._choice.name}'` ({reasons}).")
        self._in_steps = chosen if isinstance(chosen, StepEstimator) else None
        return Backward() if isinstance(chosen, StepEstimator) else chosen

    def _measure_target(self, measurement: Measurement) -> Alignments | None:
        estimator = self._choose(measurement)
        try:
            return _within_range(estimator, measurement)
        except EstimatorRefusal as refusal:
            return _within_range(self._do_without(refusal), measurement)

    def _do_without(self, refusal: EstimatorRefusal) -> Estimator:
        """Falls back to the reference estimator after a refusal."""
        name = self._choice.name
        reference = self._choice.give_up(refusal)
        self._in_steps = None
        message = "From now on alignments are measured by `estimator='backward'`"
        if not isinstance(self._choice, FixedEstimator):
            self._training.inform(f"{message}; `{name}` refused: {refusal}")
        elif not self._announced:
            self._announced = True
            self._training.warn(f"{message}. {refusal}")
        return reference

    def _in_memory(self, update: int, run: Callable[..., _T], target: int = 0) -> _T:
        """Runs a measurement; halves the probe batch size, and retries, when a batch does not fit into memory."""
        while True:
            try:
                # setting the measurement up can run a probe too, so it is inside the block
                with together(self._training.device), self._measurement(update, target) as measurement:
                    return run(measurement)
            except ProbeMemoryError as error:
                size = self._most or self._mixture.probes(update, self._settings.probe_batch_size).batch_size
                if size == 1:
                    raise
                reason = str(error).partition("\n")[0]
            # outside the `except` block: while the error is handled, its traceback keeps the graph alive
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
            self._most = size // 2
            self._training.warn(
                f"A batch of probes does not fit into memory ({reason}). From now on probes are measured in batches of "
                f"{self._most} samples at most. Alignments stay the same if the loss is a mean over samples."
            )

    @contextmanager
    def _measurement(self, update: int, target: int) -> Iterator[Measurement]:
        settings, training = self._settings, self._training
        module = training.module
        self._origins = {}
        probes = self._probes(update, target)
        with isolated(module, training.reachable()) as writes, training.undisturbed():
            chosen, excluded = _split(module, settings.parameters)
            measurement = Measurement(
                module,
                self._probe_loss(training.alignment_loss, probes),
                parameters=chosen,
                excluded=excluded,
                probes=probes,
                num_domains=self._measured,
                step=training.optimizer_steps,
                training_loss=self._probe_loss(training.training_loss, probes),
                preconditioner=adam_preconditioner(training.optimizers) if settings.preconditioner else None,
            )
            if not self._checked:
                try:
                    check_evaluation_loss(measurement, writes)
                except NoEvaluationLossError as error:
                    raise ConfigurationError(str(error)) from error
                self._checked = True
            yield measurement

    def _probes(self, update: int, target: int) -> NamedProbes:
        mixture, mixtures = self._mixture, self.mixtures
        probes = mixture.probes(update, self._settings.probe_batch_size, target=target, mixtures=mixtures)
        if self._most is not None:
            probes = probes.in_batches_of(self._most)
        names = mixture.domain_names if mixtures is None else [f"mixture {number}" for number in range(len(mixtures))]
        return NamedProbes(probes, names, next(iter(mixture.target_names[target:]), ""), self._origins)

    def _probe_loss(self, loss: LossFunction, probes: NamedProbes) -> ProbeLoss:
        training = self._training
        return ProbeLoss(
            training.module,
            loss,
            forward_context=training.forward_context,
            scale=training.loss_scale,
            transfer=training.transfer,
            origin=probes.origin,
        )


def _choice_of(estimator: Any) -> EstimatorChoice:
    return estimator if hasattr(estimator, "choose") else FixedEstimator(estimator)


def _split(module: torch.nn.Module, pattern: str | None) -> tuple[Sequence[Any], Sequence[Any]]:
    """The trainable parameters whose names match a pattern, and the others."""
    trainable = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    matches = re.compile(pattern or "").search
    chosen = [p for name, p in trainable if matches(name)]
    if not chosen:
        raise ConfigurationError(
            f"`parameters` {pattern!r} matches none of the trainable parameters; the first are "
            f"{', '.join(name for name, _ in trainable[:4])}."
        )
    return chosen, [p for name, p in trainable if not matches(name)]


def _within_range(estimator: Estimator, measurement: Measurement) -> Alignments | None:
    """A measurement at the training loss scale, or at a lower one if the target gradient overflows at that scale."""
    with together(measurement.parameters[0].device):
        found, loss = estimator.measure(measurement), measurement.loss
        while found is None and loss.scale > 1:
            loss.scale = max(loss.scale / _LOWER, 1.0)
            found = estimator.measure(measurement)
    return found
