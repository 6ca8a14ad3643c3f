"""Measurements under the Trainer's precision, devices and batch transfer; training state is restored afterwards."""

import copy
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from lightning_dga._lightning import MisconfigurationException, rank_zero_info, rank_zero_warn
from lightning_dga.alignment import (
    Auto,
    Backward,
    Cost,
    Estimator,
    EstimatorRefusal,
    InexactError,
    Losses,
    LossFunction,
    Measurement,
    NamedProbes,
    NoEvaluationLossError,
    StepEstimator,
    adam_preconditioner,
    check_evaluation_loss,
    find_loss,
    isolated,
    target_loss,
    training_step_loss,
)
from lightning_dga.core.alignments import Alignments
from lightning_dga.distributed import is_sharded
from lightning_dga.engine.probe_memory import ProbeMemoryError, together
from lightning_dga.engine.trainer import (
    loggers_muted,
    loss_factor,
    mixture_of,
    probe_loss,
    reachable,
    training_step,
)

_T = TypeVar("_T")

# factor by which the loss scale is lowered, repeatedly, until the target gradient does not overflow float16
_LOWER = 256.0


@dataclass(frozen=True)
class Settings:
    """What is measured, and on how many samples; see :class:`~lightning_dga.DynamicGradientAlignment`."""

    probe_batch_size: int
    loss_fn: LossFunction | None
    parameters: str | None
    preconditioner: str | None
    max_age: int
    # whether the rule needs the loss of each domain
    losses: bool = False


class Measurer:
    """Runs an estimator on a Trainer's model, during its training steps or after them.

    Args:
        estimator: The estimator, or :class:`~lightning_dga.alignment.Auto`, which chooses one.
        settings: What is measured.

    Attributes:
        preferred: Name of the estimator that the resumed run had chosen.
        mixtures: Mixtures of the domains, ``[N, k]``, measured in place of the domains if the rule asks for them.
    """

    def __init__(self, estimator: Estimator | StepEstimator | Auto, settings: Settings) -> None:
        self.estimator = estimator
        self.preferred: str | None = None
        self.mixtures: Tensor | None = None
        self._settings = settings
        # a copy from before any measurement, so that copies and pickles hold no reference to a model
        self._unused = copy.copy(estimator)
        self._prepare_for_a_run()

    def _prepare_for_a_run(self) -> None:
        self._in_use: Estimator | StepEstimator | None = None
        self._open = False
        self._seconds = 0.0
        self._loss: Tensor | None = None
        self._checked = False
        self._most: int | None = None
        self._told = False

    def __getstate__(self) -> dict[str, Any]:
        """Settings and the chosen estimator's name, without any reference to a model."""
        return {
            "estimator": copy.copy(self._unused),
            "preferred": self.chosen,
            "mixtures": self.mixtures,
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
        if self._in_use is None:
            return self.preferred
        return self.estimator.name if isinstance(self.estimator, Auto) else _name(self._in_use)

    def state_dict(self) -> dict[str, Any]:
        """The estimator's state, and the largest probe batch that is known to fit into memory."""
        own = getattr(self.estimator, "state_dict", dict)
        return {"estimator": _name(self.estimator), "own": own(), "most": self._most}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from :meth:`state_dict`; the state of a different estimator is ignored."""
        self._most = state["most"]
        if state["estimator"] != _name(self.estimator):
            self.preferred = None
        elif state["own"]:
            self.estimator.load_state_dict(state["own"])  # type: ignore[union-attr]

    @property
    def described(self) -> str:
        """The estimator's name for display, with the one that ``auto`` has chosen."""
        name = _name(self.estimator)
        return f"{name!r} ({self.chosen})" if self.chosen not in (None, name) else repr(name)

    def prepare(self, trainer: Any, pl_module: Any, update: int, period: int) -> None:
        """Chooses the estimator, and logs what the measurements will cost."""
        if not mixture_of(trainer).target_names:
            self._in_use = Losses()
            rank_zero_info(f"There is no target: the losses of the domains are measured every {period:,} steps.")
            return
        if self._settings.losses and isinstance(self.estimator, StepEstimator):
            raise MisconfigurationException(
                f"`estimator='{_name(self.estimator)}'` does not see the loss of each domain, which `rule` needs. Use "
                "`estimator='auto'`, or leave the target out."
            )
        if isinstance(self.estimator, StepEstimator) and not self._of_domains_and_one_target(trainer):
            raise MisconfigurationException(
                f"`estimator='{_name(self.estimator)}'` sees the domains' samples in a training step: it can measure "
                "neither mixtures of domains, nor several targets. Use `estimator='auto'`."
            )
        if isinstance(self.estimator, StepEstimator) and not self._steps_can_be_watched(trainer, pl_module):
            raise MisconfigurationException(
                f"`estimator='{_name(self.estimator)}'` sees the one backward pass of a training step: it cannot watch "
                "manual optimization or several optimizers. Use `estimator='auto'`."
            )

        def choose(measurement: Measurement) -> Measurement:
            self._choose(trainer, measurement, period)
            return measurement

        measurement = self._in_memory(trainer, pl_module, update, choose)
        step = training_step(trainer, period)
        probes, name = measurement.probes, _name(self._in_use)
        watched = isinstance(self._in_use, StepEstimator)
        samples = 0 if watched else probes.samples
        cost = Cost(
            measurement.num_domains,
            period,
            step.samples,
            probes.samples / measurement.num_domains,
            probes.target_samples,
            name,
            step.pure,
            trainer.world_size,
            is_sharded(measurement.parameters),
        )
        rank_zero_info(
            f"Aligning {measurement.num_domains:,} domains every {period:,} steps by `{name}`: {samples:,} "
            f"probe and {probes.target_samples:,} target samples beside {period * step.samples:,} training samples, "
            f"about {cost.share:.2%} more work."
        )

    def before_batch(
        self, trainer: Any, pl_module: Any, update: int, period: int, earlier: Alignments | None, *, due: bool
    ) -> None:
        """Opens a measurement if the next optimizer step is ``due`` for one, and watches the batch if one is open."""
        if not isinstance(self._in_use, StepEstimator) or not (due or self._open):
            return
        started = time.perf_counter()
        if not self._open:
            self._begin(trainer, pl_module, update, period, earlier)
        batch = mixture_of(trainer).current_batch
        assert batch is not None
        if self._open and isinstance(self._in_use, StepEstimator):
            self._in_use.watch(batch.domains, loss_factor(trainer))
        self._seconds += time.perf_counter() - started

    def _begin(self, trainer: Any, pl_module: Any, update: int, period: int, earlier: Alignments | None) -> None:
        def begin(measurement: Measurement) -> None:
            estimator = self._choose(trainer, measurement, period)
            if not isinstance(estimator, StepEstimator):
                return
            try:
                with together(pl_module.device):
                    estimator.begin(measurement, self._stale(earlier), pure=training_step(trainer, period).pure)
            except EstimatorRefusal as refusal:
                self._do_without(refusal)
            else:
                self._open = True

        self._in_memory(trainer, pl_module, update, begin)

    def before_backward(self, loss: Tensor) -> None:
        """Keeps the loss that is about to be backpropagated."""
        self._loss = loss.detach()

    def after_backward(self) -> None:
        """Stops watching the batch."""
        if self._open and isinstance(self._in_use, StepEstimator) and self._loss is not None:
            self._in_use.unwatch(self._loss)
        self._loss = None

    def end_batch(self) -> None:
        """Stops watching a batch that had no backward pass because ``training_step`` or an earlier hook skipped it."""
        if isinstance(self._in_use, StepEstimator):
            self._in_use.unwatch(None)

    def measure(
        self, trainer: Any, pl_module: Any, update: int, period: int, earlier: Alignments | None
    ) -> Alignments | None:
        """The alignments for an update, right after an optimizer step."""
        if self._open and isinstance(self._in_use, StepEstimator):
            self._open = False
            try:
                with together(pl_module.device):
                    in_step = self._in_use.finish(trainer.global_step - 1)
            except EstimatorRefusal as refusal:
                self._do_without(refusal)
            else:
                return in_step.carrying(earlier) if in_step is not None else None
        if isinstance(self._in_use, Losses):
            return self._in_memory(trainer, pl_module, update, self._in_use.measure)
        found: dict[str, Alignments] = {}
        for number, name in enumerate(mixture_of(trainer).target_names):
            of_target = self._measure_target(trainer, pl_module, update, period, number)
            if of_target is None:
                return None
            found[name] = of_target
        return Alignments.of_targets(found)

    def target_losses(self, trainer: Any, pl_module: Any, update: int) -> dict[str, float]:
        """The loss of each target by name, from forward passes only."""
        found = {}
        for number, name in enumerate(mixture_of(trainer).target_names):
            found[name] = self._in_memory(trainer, pl_module, update, target_loss, number)
        return found

    def take_seconds(self) -> float:
        """Seconds spent in :meth:`before_batch` since the last call; resets the counter."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def abandon(self) -> None:
        """Aborts a measurement in progress and restores the model."""
        if isinstance(self._in_use, StepEstimator):
            self._in_use.abandon()
        self._open = False

    def _choose(self, trainer: Any, measurement: Measurement, period: int) -> Estimator | StepEstimator:
        if isinstance(self.estimator, Auto):
            module = measurement.module
            watched = measurement.training_loss if self._steps_can_be_watched(trainer, module) else None
            before = self._in_use
            self._in_use = self.estimator.choose(measurement, training_step(trainer, period), watched, self.preferred)
            if self._in_use is not before:
                reasons = "; ".join(f"{name}: {reason}" for name, reason in self.estimator.reasons.items())
                rank_zero_info(f"Alignments will be measured by `estimator='{self.estimator.name}'` ({reasons}).")
        else:
            self._in_use = self.estimator
        return self._in_use

    def _measure_target(self, trainer: Any, pl_module: Any, update: int, period: int, target: int) -> Alignments | None:
        def measure(measurement: Measurement) -> Alignments | None:
            estimator = self._choose(trainer, measurement, period)
            if isinstance(estimator, StepEstimator):
                # an in-step estimator was chosen only now, after the step that it would have watched
                return Backward().measure(measurement)
            try:
                return _within_range(estimator, measurement)
            except EstimatorRefusal as refusal:
                return _within_range(self._do_without(refusal), measurement)

        return self._in_memory(trainer, pl_module, update, measure, target)

    def _in_memory(
        self, trainer: Any, pl_module: Any, update: int, run: Callable[[Measurement], _T], target: int = 0
    ) -> _T:
        """Runs a measurement; halves the probe batch size, and retries, when a batch does not fit into memory."""
        while True:
            try:
                # setting the measurement up can run a probe too, so it is inside the block
                with together(pl_module.device), self._measurement(trainer, pl_module, update, target) as measurement:
                    return run(measurement)
            except ProbeMemoryError as error:
                size = self._most or mixture_of(trainer).probes(update, self._settings.probe_batch_size).batch_size
                if size == 1:
                    raise
                reason = str(error).partition("\n")[0]
            # outside the `except` block: while the error is handled, its traceback keeps the graph alive
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
            self._most = size // 2
            rank_zero_warn(
                f"A batch of probes does not fit into memory ({reason}). From now on probes are measured in batches of "
                f"{self._most} samples at most. Alignments stay the same where the loss is a mean over samples."
            )

    def _do_without(self, refusal: EstimatorRefusal) -> Estimator:
        """Falls back to the reference estimator after a refusal.

        Raises:
            MisconfigurationException: If the user chose the estimator and the refusal is not an ``InexactError``.
        """
        if isinstance(self.estimator, Auto):
            name = self.estimator.name
            reference = self._in_use = self.estimator.give_up(str(refusal))
            rank_zero_info(
                f"From now on alignments are measured by `estimator='backward'`; `{name}` refused: {refusal}"
            )
            return reference
        if not isinstance(refusal, InexactError):
            raise MisconfigurationException(str(refusal)) from refusal
        reference = self._in_use = Backward()
        if not self._told:
            self._told = True
            rank_zero_warn(f"From now on alignments are measured by `estimator='backward'`. {refusal}")
        return reference

    def _steps_can_be_watched(self, trainer: Any, pl_module: Any) -> bool:
        single = bool(pl_module.automatic_optimization) and len(trainer.optimizers) == 1
        return single and not self._settings.losses and self._of_domains_and_one_target(trainer)

    def _of_domains_and_one_target(self, trainer: Any) -> bool:
        return self.mixtures is None and len(mixture_of(trainer).target_names) == 1

    @contextmanager
    def _measurement(self, trainer: Any, pl_module: Any, update: int, target: int = 0) -> Iterator[Measurement]:
        settings, mixture = self._settings, mixture_of(trainer)
        measured = mixture.probes(update, settings.probe_batch_size, target=target, mixtures=self.mixtures)
        if self._most is not None:
            measured = measured.in_batches_of(self._most)
        k = len(mixture.domain_names if self.mixtures is None else self.mixtures)
        names = mixture.domain_names if self.mixtures is None else [f"mixture {number}" for number in range(k)]
        probes = NamedProbes(measured, names, next(iter(mixture.target_names[target:]), ""))
        with isolated(pl_module, reachable(trainer)) as writes, loggers_muted(trainer):
            trainable = [(name, p) for name, p in pl_module.named_parameters() if p.requires_grad]
            pattern = re.compile(settings.parameters or "")
            if not any(pattern.search(name) for name, _ in trainable):
                raise MisconfigurationException(
                    f"`parameters` {settings.parameters!r} matches none of the trainable parameters; the first are "
                    f"{', '.join(name for name, _ in trainable[:4])}."
                )
            measurement = Measurement(
                pl_module,
                probe_loss(trainer, pl_module, find_loss(pl_module, settings.loss_fn), probes.origin),
                parameters=[p for name, p in trainable if pattern.search(name)],
                excluded=[p for name, p in trainable if not pattern.search(name)],
                probes=probes,
                num_domains=k,
                step=trainer.global_step,
                training_loss=probe_loss(trainer, pl_module, training_step_loss, probes.origin),
                preconditioner=adam_preconditioner(trainer.optimizers) if settings.preconditioner else None,
            )
            if not self._checked:
                try:
                    check_evaluation_loss(measurement, writes)
                except NoEvaluationLossError as error:
                    raise MisconfigurationException(str(error)) from error
                self._checked = True
            yield measurement

    def _stale(self, earlier: Alignments | None) -> Sequence[int]:
        if earlier is None:
            return []
        found: list[int] = (earlier.ages >= self._settings.max_age).nonzero().flatten().tolist()
        return found


def _within_range(estimator: Estimator, measurement: Measurement) -> Alignments | None:
    """A measurement at the training loss scale, or at a lower one if the target gradient overflows at that scale."""
    with together(measurement.parameters[0].device):
        found, loss = estimator.measure(measurement), measurement.loss
        while found is None and loss.scale > 1:
            loss.scale = max(loss.scale / _LOWER, 1.0)
            found = estimator.measure(measurement)
    return found


def _name(estimator: Any) -> str:
    words = re.findall("[A-Z][a-z0-9]*", type(estimator).__name__)
    return "_".join(words).lower()
