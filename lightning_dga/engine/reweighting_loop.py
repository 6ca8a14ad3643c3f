"""The loop that measures alignments, reweights, and sets the weights of the mixture."""

import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_dga.core.data_budget import DataBudget
from lightning_dga.distributed import broadcast
from lightning_dga.engine import advice
from lightning_dga.engine.cost_message import described_cost
from lightning_dga.engine.errors import ConfigurationError
from lightning_dga.engine.measurement import Measurer
from lightning_dga.engine.metrics import alignment_metrics, mixture_metrics
from lightning_dga.engine.progress import Progress
from lightning_dga.engine.protocols import Mixture, Training
from lightning_dga.engine.resuming import Described, mismatch, rule_name, unlike
from lightning_dga.engine.schedule import BudgetedSchedule, FixedSchedule, Schedule
from lightning_dga.engine.watchdog import Watchdog
from lightning_dga.engine.weights_agreement import WeightsAgreement
from lightning_dga.reweighting import Distributions, Rule, RuleState, measured_over, traits

# entries of a rule's state that are settings given by the user
_GIVEN_TO_A_RULE = ("prior", "reference")
# EMA decay for the signal-to-noise ratio when `alignment_ema=1`, which does not average
_NOISE_EMA = 0.1
# consecutive non-finite target gradients after which the run ends; a few can come from a loss scale that grew too far
_MOST_NOT_FINITE = 10


class ReweightingLoop:
    """Online data mixing by gradient alignment, as an object that a training loop drives.

    The training loop calls, on every rank: :meth:`start` and :meth:`begin` before its first step; around each batch
    :meth:`before_batch`, :meth:`before_backward`, :meth:`after_backward` and :meth:`after_batch`; :meth:`update` after
    an optimizer step for which :meth:`is_due` holds; and :meth:`finish`, or :meth:`release` after an exception.

    Args:
        rule: Turns alignments into weights.
        measurer: Measures the alignments.
        every_n_steps: Reweighting period T_r in training steps; ``"auto"`` updates as often as ``max_overhead`` allows,
            ``None`` never measures.
        max_overhead: Work of the updates relative to that of training, if ``every_n_steps`` is ``"auto"``.
        min_updates: Number of updates that a run has whatever they cost, if ``every_n_steps`` is ``"auto"``.
        alignment_ema: Weight of the newest alignments in the average that the rule sees; 1 switches averaging off.
        timeout: Seconds that a phase with collectives may take.

    Attributes:
        progress: How far the loop has come; what is checkpointed.
    """

    def __init__(
        self,
        rule: Rule,
        measurer: Measurer,
        *,
        every_n_steps: int | str | None,
        max_overhead: float = 0.02,
        min_updates: int = 70,
        alignment_ema: float = 1.0,
        timeout: float = 1800.0,
    ) -> None:
        self.rule = rule
        self.measurer = measurer
        self.every_n_steps = every_n_steps
        self.max_overhead = max_overhead
        self.min_updates = min_updates
        self.progress = Progress()
        self._alignment_ema = alignment_ema
        self._timeout = timeout
        self._described: Described | None = None
        self._prepare_for_a_run()

    def _prepare_for_a_run(self) -> None:
        self._training: Training | None = None
        self._mixture: Mixture | None = None
        self._watchdog: Watchdog | None = None
        self._agreement: WeightsAgreement | None = None
        self._measured_over: Distributions | None = None
        self._schedule: Schedule | None = None
        self._staleness = 0
        self._target_loss_step = -1
        self._not_finite = 0
        self._scale = 1.0
        self._advised: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Settings and progress, without threads and without the model."""
        kept = (
            "rule",
            "every_n_steps",
            "max_overhead",
            "min_updates",
            "progress",
            "_alignment_ema",
            "_timeout",
            "_described",
        )
        return {name: getattr(self, name) for name in kept} | {"measurer": copy(self.measurer)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores the state, with no run in progress."""
        vars(self).update(state)
        self._prepare_for_a_run()

    @property
    def moves_weights(self) -> bool:
        """Whether the rule moves the weights; if not, the weights given to the data module apply, also on resume."""
        return traits(self.rule).moves

    @property
    def in_training(self) -> Training:
        """The training that is served, between :meth:`start` and :meth:`release`."""
        assert self._training is not None, "no run has been started"
        return self._training

    @property
    def mixture(self) -> Mixture:
        """The mixture that is reweighted, between :meth:`start` and :meth:`release`."""
        assert self._mixture is not None, "no run has been started"
        return self._mixture

    def check_targets(self, mixture: Mixture) -> None:
        """Checks that a mixture has the target that the rule needs.

        Raises:
            ConfigurationError: If it does not.
        """
        if mixture.target_names or traits(self.rule).losses_only or not self.moves_weights:
            return
        raise ConfigurationError(
            f"{type(mixture).__name__} has no `target`: give the target set to `super().__init__`, or assign "
            f"`self.target` in `setup(stage)`. The rule {rule_name(self.rule)} moves the mixture toward it; 'odm' and "
            "'doremi' need none."
        )

    def start(self, training: Training, mixture: Mixture) -> None:
        """Starts the mixture, or continues that of the previous run or of a checkpoint.

        Args:
            training: The training.
            mixture: The mixture.

        Raises:
            ConfigurationError: If the mixture, the rule and the saved progress do not fit together.
        """
        if not any(parameter.requires_grad for parameter in training.module.parameters()):
            raise ConfigurationError(
                f"{type(training.module).__name__} has no trainable parameter, so there is no gradient to align. "
                "Unfreeze some."
            )
        self._training, self._mixture = training, mixture
        self.measurer.start(training, mixture)
        now = Described.of(mixture.domain_names, mixture.target_names, self.rule)
        try:
            self._measured_over = measured_over(self.rule, mixture.domain_names)
            self.measurer.mixtures = None if self._measured_over is None else self._measured_over.mixtures
            self._schedule = self._make_schedule()
            weights, fresh = self.rule.start(mixture.domain_names, mixture.weights, self._budget())
        except ValueError as error:
            # a prior or histogram that does not fit these domains
            raise ConfigurationError(str(error)) from error
        progress = self.progress
        if progress.weights is None:
            self._commit(Progress(weights=weights, weights_version=mixture.weights_version, rule=fresh))
        else:
            saved = self._described or _described_by(progress, now, fresh)
            problem = mismatch(saved, now)
            if problem is not None:
                raise ConfigurationError(problem)
            if saved.settings != now.settings and now.settings:
                progress = self._with_new_settings(progress, weights, fresh)
            if progress.weights_version > mixture.weights_version or progress is not self.progress:
                # the checkpoint was written after the loop's half of an update and before the mixture's, or the rule's
                # settings have changed
                self._commit(progress)
        self._described = now

    def _with_new_settings(self, progress: Progress, weights: Tensor, fresh: RuleState) -> Progress:
        """The progress of a resumed run under the rule's present settings in place of the checkpoint's."""
        self.in_training.inform(
            f"The settings of `rule` differ from the checkpoint's; from now on, {self.rule!r} applies."
        )
        if not self.moves_weights:
            return replace(progress, weights=weights, rule=fresh)
        said = (name for name in _GIVEN_TO_A_RULE if name in fresh and name in progress.rule)
        return replace(progress, rule={**progress.rule, **{name: fresh[name] for name in said}})

    def begin(self) -> None:
        """Prepares the measurements when training starts."""
        training, mixture = self.in_training, self.mixture
        if training.steps < self.progress.step:
            # a new run, which counts its steps from 0, continues with the mixture of the previous one, not its schedule
            self.progress = replace(self.progress, step=training.steps, schedule={})
        self._scale = training.loss_scale
        self._staleness = mixture.staleness
        self._watchdog = Watchdog(self._timeout)
        self._watchdog.start()
        self._agreement = WeightsAgreement(mixture, training.device)
        if self.every_n_steps is None or not self._measures:
            return
        self.measurer.resume(self.progress.estimator, self.progress.estimator_state)
        with self._phase("preparing to align"):
            self.measurer.prepare(self.progress.updates)
        schedule = self._schedule = self._make_schedule()
        assert schedule is not None
        end = self._planned_end
        updates = None if end is None else schedule.updates(training.steps, end)
        has_target = bool(mixture.target_names)
        training.inform(described_cost(self.measurer.cost(), schedule, training.steps, end, has_target=has_target))
        self._advise(advice.before_training(self.rule, self.every_n_steps, updates))

    def _make_schedule(self) -> Schedule | None:
        """The schedule of a resumed run, or a new one for the estimator that is chosen or is likely to be."""
        if self.every_n_steps is None or not self._measures:
            return None
        if isinstance(self.every_n_steps, int):
            return FixedSchedule(self.every_n_steps)
        kept = BudgetedSchedule.from_state_dict(self.progress.schedule, self.max_overhead, self.min_updates)
        if kept is not None:
            return kept
        begin, end = self.in_training.steps, self._planned_end
        period = max(self.measurer.cost().share / self.max_overhead, 1.0)
        length = None if end is None else end - begin
        return BudgetedSchedule(self.max_overhead, period, self.min_updates, begin, length)

    @property
    def _planned_end(self) -> float | None:
        """Training steps at the end of the run; ``None`` if that is not known."""
        length = self.in_training.run_length(1)
        if length.periods is None or length.may_end_early:
            return None
        return self.in_training.steps + length.periods

    @property
    def _measures(self) -> bool:
        # without a target, and with a rule that does not use losses, there is nothing to measure
        return traits(self.rule).losses_only or bool(self.mixture.target_names)

    def should_update(self, step: int) -> bool:
        """Whether the schedule has an update after a training step."""
        schedule = self._schedule
        if schedule is None and isinstance(self.every_n_steps, int):
            schedule = FixedSchedule(self.every_n_steps)
        return schedule is not None and schedule.is_due(step, self.progress.step)

    def is_due(self, step: int) -> bool:
        """Whether an update after a training step is possible: there is something to measure, and none was done yet."""
        return self._mixture is not None and self._measures and step > self.progress.step

    def before_batch(self, *, due: bool) -> None:
        """Watches the next batch, if the estimator measures during training steps.

        Args:
            due: Whether an update follows the next optimizer step.
        """
        progress = self.progress
        with self._phase("aligning") if due else nullcontext():
            self.measurer.before_batch(progress.updates, progress.alignments, due=due)

    def before_backward(self, loss: Tensor) -> None:
        """Takes note of the loss that is about to be backpropagated, multiplied as it will be."""
        self.measurer.before_backward(loss)

    def after_backward(self) -> None:
        """Ends the watch of a batch."""
        self.measurer.after_backward()

    def skip_batch(self) -> None:
        """Ends the watch of a batch that has had no backward pass."""
        self.measurer.end_batch()

    def after_batch(self) -> None:
        """Compares the weights of all ranks, without blocking, after each batch.

        Raises:
            RuntimeError: If ranks hold different weights.
        """
        self.measurer.end_batch()
        if self._agreement is not None:
            self._agreement.check_step(self.progress.updates)

    def update(self) -> None:
        """Measures, reweights and sets the weights, right after an optimizer step."""
        started = time.perf_counter()
        training, mixture, progress = self.in_training, self.mixture, self.progress
        with self._phase("aligning"):
            if self._agreement is not None:
                self._agreement.check(progress.updates)
            alignments = self.measurer.measure(progress.updates, progress.alignments)
        weights, state, averages, budget = mixture.weights, progress.rule, progress.averages, self._budget()
        if alignments is None:
            self._pass_over()
        else:
            self._not_finite = 0
            self._target_loss_step = training.optimizer_steps
            seen = alignments
            if alignments.targets:
                averaged = self._alignment_ema < 1
                averages = averages.updated(alignments, self._alignment_ema if averaged else _NOISE_EMA)
                seen = averages.smoothed(alignments) if averaged else alignments
            weights, state = self.rule.update(weights, seen, state, budget)
            weights = broadcast(weights, training.device)
        # that of the previous weights
        self._staleness = mixture.staleness
        self._commit(
            replace(
                progress,
                updates=progress.updates + 1,
                step=training.steps,
                weights=weights,
                rule=state,
                alignments=alignments or progress.alignments,
                averages=averages,
                estimator=self.measurer.chosen,
                estimator_state=self.measurer.state_dict(),
                seconds=progress.seconds + self.measurer.take_seconds() + time.perf_counter() - started,
                schedule=self._schedule.state_dict() if self._schedule is not None else {},
            )
        )
        moving = self.moves_weights and not traits(self.rule).limits_repetition
        self._advise(advice.in_training(mixture.domain_names, weights, budget, moving=moving))
        self._advise(advice.on_noise(averages.signal_to_noise, self.progress.updates))

    def _pass_over(self) -> None:
        """Skips an update whose target gradient is not finite; ends the run after too many in a row."""
        step, scale = self.in_training.optimizer_steps, self.in_training.loss_scale
        # a loss scaler starts with a large scale, and halves it at every overflow; such updates are not counted
        searches, self._scale = 1 <= scale < self._scale, scale
        self._not_finite = 0 if searches else self._not_finite + 1
        why = f"; the loss scale still falls, to {scale:g}" if searches else ""
        self.in_training.warn(
            f"The target gradient is not finite at step {step}{why}, or a target batch was given no loss; the mixture "
            "stays unchanged."
        )
        if self._not_finite == _MOST_NOT_FINITE:
            raise FloatingPointError(
                f"The target gradient was not finite in {_MOST_NOT_FINITE} alignments in a row, the last after "
                f"step {step}: training has diverged, or no target batch is given a loss. Resume from an earlier "
                "checkpoint with a lower learning rate, or define an `alignment_loss(batch)` that returns a loss."
            )

    def target_losses(self) -> dict[str, float]:
        """The loss of each target at the present parameters, by forward passes.

        Returns:
            The losses by name of the target; empty if they were measured at these parameters before, as by an update,
            or there is no target.
        """
        step = self.in_training.optimizer_steps
        if step == self._target_loss_step or not self.mixture.target_names:
            return {}
        with self._phase("measuring the target loss"):
            losses = self.measurer.target_losses(self.progress.updates)
        self._target_loss_step = step
        return losses

    def metrics(self) -> dict[str, float]:
        """The metrics of the weights and of the latest alignments, by name."""
        mixture, progress = self.mixture, self.progress
        measured = mixture.domain_names if self._measured_over is None else self._measured_over.names
        return {
            **mixture_metrics(mixture, progress.seconds),
            **alignment_metrics(mixture, measured, progress.alignments, progress.averages.signal_to_noise),
            "dga/staleness": float(self._staleness),
        }

    def finish(self) -> None:
        """Compares the weights of all ranks a last time, at the end of training."""
        if self._agreement is not None:
            self._agreement.close(self.progress.updates)
        self.release()

    def release(self) -> None:
        """Restores the model, stops the watchdog, and holds no reference to the training any more."""
        self.measurer.release()
        if self._watchdog is not None:
            self._watchdog.stop()
        self._training = self._mixture = self._watchdog = self._agreement = None

    def state_dict(self) -> dict[str, Any]:
        """The progress, and the domains, targets and rule that it belongs to. Runs no collective."""
        described = self._described.state_dict() if self._described is not None else None
        return {**self.progress.state_dict(), "of": described}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from :meth:`state_dict`."""
        fields = dict(state)
        described = fields.pop("of", None)
        self._described = Described.from_state_dict(described) if described is not None else None
        self.progress = Progress.from_state_dict(fields)

    def _budget(self) -> DataBudget:
        ahead = None if self._schedule is None else self._schedule.ahead(self.in_training.steps)
        mixture, length = self.mixture, self.in_training.run_length(ahead)
        sizes = mixture.domain_sizes.double()
        known = torch.where(sizes > 0, sizes, torch.inf)
        seen = mixture.samples_seen.double()
        return DataBudget(seen, known, length.planned, length.least, length.period, length.may_end_early)

    def _phase(self, name: str) -> AbstractContextManager[None]:
        """A phase that involves all ranks; an error on one rank ends it on all."""
        if self._watchdog is None:
            return nullcontext()
        return self._watchdog.phase(name, self.in_training.optimizer_steps, self.in_training.device)

    def _advise(self, found: Iterable[advice.Advice]) -> None:
        for key, message in found:
            if key not in self._advised:
                self._advised.add(key)
                self.in_training.warn(message)

    def _commit(self, progress: Progress) -> None:
        """Applies an update, to the loop's state first, so that a checkpoint taken in between contains it."""
        weights, mixture = progress.weights, self.mixture
        assert weights is not None
        changed = not torch.equal(weights, mixture.weights)
        self.progress = replace(progress, weights_version=mixture.weights_version + changed)
        if changed:
            mixture.set_weights(weights)


def _described_by(progress: Progress, now: Described, fresh: RuleState) -> Described:
    """The description of an older checkpoint, whose state does not name its domains, targets and rule."""
    assert progress.weights is not None
    if len(progress.weights) != len(now.domains):
        return replace(now, domains=("?",) * len(progress.weights))
    return replace(now, rule="another rule", settings="") if unlike(progress.rule, fresh) else now
