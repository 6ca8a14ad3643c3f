"""The callback: when to align, what is logged, what is checkpointed."""

import inspect
import re
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from reprlib import Repr
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_dga._lightning import Callback, MisconfigurationException, rank_zero_info, rank_zero_warn
from lightning_dga.alignment import (
    ESTIMATORS,
    Auto,
    Estimator,
    LossFunction,
    StepEstimator,
    find_loss,
    uses_training_step,
)
from lightning_dga.callbacks import monitoring
from lightning_dga.callbacks.monitoring import Monitored
from lightning_dga.callbacks.requirements import check_iterator_step, check_mixture, check_strategy
from lightning_dga.callbacks.run_length import run_length
from lightning_dga.callbacks.steps import TrainingSteps
from lightning_dga.callbacks.watchdog import Watchdog
from lightning_dga.core.alignments import Alignments
from lightning_dga.core.arguments import an_object, number, one_of, positive_integer
from lightning_dga.core.data_budget import DataBudget
from lightning_dga.distributed import Agreement, broadcast, differing_ranks
from lightning_dga.engine import advice
from lightning_dga.engine.measurement import Measurer, Settings
from lightning_dga.engine.progress import Progress
from lightning_dga.engine.protocols import Mixture
from lightning_dga.engine.resuming import Described, mismatch, rule_name, unlike
from lightning_dga.engine.trainer import loss_scale
from lightning_dga.handover import Handover
from lightning_dga.reweighting import (
    Distributions,
    Rule,
    RuleState,
    make_rule,
    measured_over,
    traits,
)

_STATE_FORMAT = 1
# attributes that are not copied or pickled; Lightning sets `log` and `log_dict` to methods of the module
_OF_A_RUN = {
    *("_watchdog", "_agreement", "_checked", "_monitored", "_target_loss_step", "_not_finite", "_scale", "_advised"),
    *("_measured_over", "log", "log_dict"),
}
# entries of a rule's state that are settings given by the user
_GIVEN_TO_A_RULE = ("prior", "reference")
# EMA decay for the signal-to-noise ratio when `alignment_ema=1`, which does not average
_NOISE_EMA = 0.1
# consecutive non-finite target gradients after which the run ends; a few can come from a loss scale that grew too far
_MOST_NOT_FINITE = 10


class _Short(Repr):
    """Shows objects on one line, however many domains a prior has."""

    def __init__(self) -> None:
        super().__init__()
        self.maxother = 160


class DynamicGradientAlignment(Callback):
    """Moves the mixture toward the domains whose gradients lower the target loss, while the model trains.

    Every ``every_n_steps`` training steps it measures the alignment ``a_i = <grad L_i, grad L_target>`` of each domain
    on a few probe samples, lets the rule turn the alignments into weights, and gives these to the data module. A
    measurement does not change the state of training: gradients, optimizer, loss scaler, random number generators,
    buffers, modes and metrics. The method is *Dynamic Gradient Alignment for Online Data Mixing* (arXiv 2410.02498).

    The loss that is aligned is the module's ``alignment_loss(batch)`` if it defines one, else ``loss_fn``, else its
    ``training_step``, run in evaluation mode; nothing that it logs or updates is kept. Modules that checkpoint their
    activations in training mode only stay in it, without dropout, so that a probe needs no more memory than a step.

    Args:
        every_n_steps: Reweighting period T_r in training steps: batches that end in an optimizer step, or in several
            under manual optimization. A longer period costs less, but the run needs at least about ten periods to move
            the mixture in time. ``None`` never measures, which keeps the rule's initial weights, such as those of
            importance sampling.
        step_size: η of the rule; ``None`` takes the rule's default.
        ema: β of the rule, the weight of the newest value in its moving average; ``None`` takes the rule's default.
        estimator: How alignments are measured: ``"auto"`` (the cheapest that agrees with the reference on this model),
            ``"in_step"``, ``"backward"`` (the reference), ``"batched"``, ``"finite_difference"``, or an
            :class:`~lightning_dga.alignment.Estimator` or :class:`~lightning_dga.alignment.StepEstimator`.
        rule: How alignments become weights: ``"dga"``, ``"dga_paper"``, ``"static"`` (measures and never moves the
            weights), ``"uniform"``, ``"importance"`` and ``"water_filling"`` (which need ``prior``), ``"odm"`` and
            ``"doremi"`` (by the domains' losses, with or without a target), ``"doge"``, ``"grape"``, or a
            :class:`~lightning_dga.reweighting.Rule` such as ``Importance(prior)``.
        probe_batch_size: Probe samples per domain and update, in total over all ranks.
        loss_fn: ``loss_fn(pl_module, batch)``: a scalar mean, or one loss per sample.
        parameters: A regular expression that selects the parameters to align over by a match anywhere in their names,
            such as ``"lora_"`` or ``"^(?!.*embedding)"``; all trainable parameters if not given.
        preconditioner: ``"adam"`` scales the target gradient by the diagonal preconditioner of the Adam or AdamW in
            use, so that the alignment is with the optimizer's step and not with the plain gradient.
        alignment_ema: Weight of the newest alignments in the average that the rule sees; 1 switches averaging off.
        max_age: For estimators that use the samples of a training step: number of updates after which a domain that was
            not in any watched step is probed.
        prior: A guess at the best domain weights, such as a histogram of the target over the domains
            (``dga-domains histogram``); the run starts with it, and the default rule departs from it where alignments
            contradict it.
        timeout: Seconds that a measurement may take with several ranks. After that the run is ended, with a message
            that names the rank that the others have waited for and its position in the code, or says that it has died.

    The metrics (``dga/target_loss``, ``dga/effective_domains``, ``dga/weight/…``, ``dga/alignment/…``, …) go to the
    trainer's loggers after each update, and are in ``trainer.callback_metrics`` from the start of training on, for
    ``EarlyStopping``, ``ModelCheckpoint`` and schedulers. If ``dga/target_loss`` is monitored, it is measured again at
    the end of each epoch and before each validation, by forward passes over the target's samples.

    Attributes:
        alignments: The latest :class:`~lightning_dga.core.alignments.Alignments`; ``None`` before the first update.
        seconds: Time spent aligning so far, in seconds.

    Raises:
        ValueError: If an argument is out of its range, or no such rule or estimator exists.
        MisconfigurationException: When training starts, if the data module, the strategy or the module cannot be used.

    Example::

        datamodule = MixtureDataModule(domains={"wiki": wiki, "code": code}, target=target, batch_size=32)
        trainer = L.Trainer(callbacks=[DynamicGradientAlignment()])
        trainer.fit(model, datamodule=datamodule)
    """

    def __init__(
        self,
        every_n_steps: int | None = 10,
        step_size: float | None = None,
        ema: float | None = None,
        estimator: str | Estimator | StepEstimator | Auto = "auto",
        rule: str | Rule = "dga",
        probe_batch_size: int = 4,
        loss_fn: LossFunction | None = None,
        parameters: str | None = None,
        preconditioner: str | None = None,
        alignment_ema: float = 1.0,
        max_age: int = 20,
        prior: Mapping[str, float] | Sequence[float] | None = None,
        timeout: float = 1800,
    ) -> None:
        every_n_steps = None if every_n_steps is None else positive_integer("every_n_steps", every_n_steps)
        probe_batch_size = positive_integer("probe_batch_size", probe_batch_size)
        max_age = positive_integer("max_age", max_age)
        for name, given in {"step_size": step_size, "ema": ema}.items():
            if given is not None:
                number(name, given)
        if isinstance(estimator, str):
            one_of("estimator", estimator, ESTIMATORS)
        else:
            measures = next((method for method in ("choose", "begin") if hasattr(estimator, method)), "measure")
            an_object("estimator", estimator, [measures], "a name or an Estimator")
        if not isinstance(rule, str):
            an_object("rule", rule, ["start", "update"], "a name or a Rule")
            if any(given is not None for given in (step_size, ema, prior)):
                raise ValueError("`rule` is an object: give `step_size`, `ema` and `prior` to the rule object.")
        if loss_fn is not None and not callable(loss_fn):
            raise ValueError(f"`loss_fn` must be a function `loss_fn(pl_module, batch)`, got {loss_fn!r}.")
        if preconditioner not in (None, "adam"):
            raise ValueError(f"`preconditioner` must be 'adam' or None, got {preconditioner!r}.")
        if not 0 < number("alignment_ema", alignment_ema) <= 1:
            raise ValueError(f"`alignment_ema` must be in (0, 1], got {alignment_ema}; 1 switches the average off.")
        if number("timeout", timeout) <= 0:
            raise ValueError(f"`timeout` must be positive, got {timeout}.")
        try:
            re.compile(parameters or "")
        except (re.error, TypeError) as error:
            raise ValueError(f"`parameters` {parameters!r} is not a regular expression: {error}.") from error
        self.every_n_steps = every_n_steps
        self.probe_batch_size = probe_batch_size
        self.alignment_ema = alignment_ema
        self.rule: Rule = make_rule(rule, step_size=step_size, ema=ema, prior=prior) if isinstance(rule, str) else rule
        self._loss_fn = loss_fn
        self._measurer = Measurer(
            ESTIMATORS[estimator]() if isinstance(estimator, str) else estimator,
            Settings(
                probe_batch_size, loss_fn, parameters, preconditioner, max_age, losses=traits(self.rule).losses_only
            ),
        )
        self._progress = Progress()
        self._steps = TrainingSteps()
        self._described: Described | None = None
        self._restored = False
        self._handover = Handover()
        self._timeout = timeout
        self._prepare_for_a_run()

    def _prepare_for_a_run(self) -> None:
        """Initializes the attributes that belong to a run in progress, and to no checkpoint or copy."""
        self._watchdog: Watchdog | None = None
        self._agreement: Agreement | None = None
        self._checked = (-1, 0)
        self._monitored = Monitored()
        self._measured_over: Distributions | None = None
        self._target_loss_step = -1
        self._not_finite = 0
        self._scale = 1.0
        self._advised: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """The state for a copy or a pickle: settings and progress, without threads and without the model."""
        self._take_over()
        return {name: value for name, value in vars(self).items() if name not in _OF_A_RUN}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores the state, with no run in progress."""
        vars(self).update(state)
        self._prepare_for_a_run()

    def __repr__(self) -> str:
        """Settings and progress."""
        self._take_over()
        rule = _Short().repr(self.rule)
        progress = self._progress
        done = f"updates={progress.updates}, seconds={progress.seconds:.1f}" if progress.updates else "updates=0"
        return (
            f"{type(self).__name__}(every_n_steps={self.every_n_steps}, rule={rule}, "
            f"estimator={self._measurer.described}, probe_batch_size={self.probe_batch_size}; {done})"
        )

    @property
    def alignments(self) -> Alignments | None:
        """The latest alignments; ``None`` before the first measurement."""
        self._take_over()
        return self._progress.alignments

    @property
    def seconds(self) -> float:
        """Time spent aligning so far, in seconds."""
        self._take_over()
        return self._progress.seconds

    @property
    def moves_weights(self) -> bool:
        """Whether the rule moves the weights; if not, the weights given to the data module apply, also on resume."""
        return traits(self.rule).moves

    def should_update(self, step: int) -> bool:
        """Whether to align after an optimizer step; override it for a custom schedule.

        Args:
            step: Training steps done: batches that ended in an optimizer step. Under automatic optimization this equals
                ``trainer.global_step``; under manual optimization ``global_step`` counts every optimizer's steps.
        """
        period = self.every_n_steps
        return period is not None and step // period > self._progress.step // period

    @override
    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage != "fit":
            return
        self._take_over()
        if sum(isinstance(callback, DynamicGradientAlignment) for callback in trainer.callbacks) > 1:
            raise MisconfigurationException(
                "The Trainer has several DynamicGradientAlignment callbacks, which would overwrite one another's "
                "weights; give it one. To measure beside another rule, use `rule='static'` in a run of its own."
            )
        mixture = check_mixture(trainer)
        if not mixture.target_names and not (self._goes_by_losses or not self.moves_weights):
            raise MisconfigurationException(
                f"{type(mixture).__name__} has no `target`: give the target set to `super().__init__`, or assign "
                f"`self.target` in `setup(stage)`. The rule {rule_name(self.rule)} moves the mixture toward it; 'odm' "
                "and 'doremi' need none."
            )
        check_strategy(trainer)
        loss = find_loss(pl_module, self._loss_fn)
        if uses_training_step(loss) and not pl_module.automatic_optimization:
            raise MisconfigurationException(
                f"{type(pl_module).__name__} optimizes manually, so its `training_step` cannot measure a loss. "
                "Define `alignment_loss(batch)` on it, or give the callback `loss_fn(pl_module, batch)`."
            )
        if "dataloader_iter" in inspect.signature(pl_module.training_step).parameters:
            check_iterator_step(pl_module, loss, self._measurer.estimator)

    @override
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        if not any(parameter.requires_grad for parameter in pl_module.parameters()):
            raise MisconfigurationException(
                f"{type(pl_module).__name__} has no trainable parameter, so there is no gradient to align."
            )
        mixture = check_mixture(trainer)
        self._take_up(trainer, mixture)

    def _take_up(self, trainer: Any, mixture: Mixture) -> None:
        """Starts the mixture, or continues that of the previous ``fit`` or of a checkpoint."""
        progress = self._progress
        now = Described.of(mixture.domain_names, mixture.target_names, self.rule)
        exposure = _exposure(trainer, self.every_n_steps)
        try:
            self._measured_over = measured_over(self.rule, mixture.domain_names)
            weights, fresh = self.rule.start(mixture.domain_names, mixture.weights, exposure)
        except ValueError as error:
            # a prior or histogram that does not fit these domains
            raise MisconfigurationException(str(error)) from error
        self._measurer.mixtures = None if self._measured_over is None else self._measured_over.mixtures
        if progress.weights is None:
            self._commit(Progress(weights=weights, weights_version=mixture.weights_version, rule=fresh), mixture)
        else:
            saved = self._described
            if saved is None:
                # an older checkpoint, whose state does not name its domains, targets and rule
                saved = replace(now, rule="another rule", settings="") if unlike(progress.rule, fresh) else now
                if len(progress.weights) != len(mixture.domain_names):
                    saved = replace(now, domains=("?",) * len(progress.weights))
            problem = mismatch(saved, now)
            if problem is not None:
                raise MisconfigurationException(problem)
            if saved.settings != now.settings and now.settings:
                progress = self._with_new_settings(progress, weights, fresh)
            if progress.weights_version > mixture.weights_version or progress is not self._progress:
                # the checkpoint was written after the callback's half of an update and before the data module's, or
                # the rule's settings have changed
                self._commit(progress, mixture)
        self._described = now

    def _with_new_settings(self, progress: Progress, weights: Tensor, fresh: RuleState) -> Progress:
        """The progress of a resumed run under the rule's present settings in place of the checkpoint's."""
        rank_zero_info(f"The settings of `rule` are not those of the checkpoint; from now on it is {self.rule!r}.")
        if not self.moves_weights:
            return replace(progress, weights=weights, rule=fresh)
        said = (name for name in _GIVEN_TO_A_RULE if name in fresh and name in progress.rule)
        return replace(progress, rule={**progress.rule, **{name: fresh[name] for name in said}})

    @override
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        mixture = check_mixture(trainer)
        if self._restored:
            # some strategies restore a checkpoint only after `on_fit_start`
            self._take_up(trainer, mixture)
        self._steps.start(trainer, pl_module)
        if self._steps.done < self._progress.step:
            # a new `fit`, which counts its steps from 0, continues with the mixture of the previous one
            self._progress = replace(self._progress, step=self._steps.done)
        self._scale = loss_scale(trainer)
        self._watchdog = Watchdog(self._timeout)
        self._watchdog.start()
        self._agreement, self._checked = Agreement(), (-1, 0)
        if self.every_n_steps is not None and (mixture.target_names or self._goes_by_losses):
            self._measurer.preferred = self._progress.estimator
            if self._progress.estimator_state:
                self._measurer.load_state_dict(self._progress.estimator_state)
            with self._phase("preparing to align", trainer, pl_module):
                self._measurer.prepare(trainer, pl_module, self._progress.updates, self.every_n_steps)
            length = run_length(trainer, mixture, self.every_n_steps)
            self._advise(advice.before_training(self.rule, self.every_n_steps, length.periods))
        self._monitored.update(trainer, self._metrics(mixture) | {"dga/staleness": float(mixture.staleness)})
        if trainer.global_step == 0:
            monitoring.log(trainer, monitoring.mixture_metrics(mixture, self._progress.seconds))
        if self._restored and self._is_due(self._steps.done):
            # the checkpoint was written by a callback that runs before this one, just before an update
            self._update(trainer, pl_module)
        self._restored = False
        self._refresh_target_loss(trainer, pl_module)

    @property
    def _goes_by_losses(self) -> bool:
        return traits(self.rule).losses_only

    def _is_due(self, step: int) -> bool:
        # without a target, and with a rule that does not use losses, there is nothing to measure
        measures = self._goes_by_losses or (self._described is not None and bool(self._described.targets))
        return measures and step > self._progress.step and self.should_update(step)

    @override
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        progress, due = self._progress, self._is_due(self._steps.done + 1)
        with self._phase("aligning", trainer, pl_module) if due else nullcontext():
            self._measurer.before_batch(
                trainer, pl_module, progress.updates, self.every_n_steps or 1, progress.alignments, due=due
            )

    @override
    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        self._measurer.before_backward(loss)

    @override
    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        self._measurer.after_backward()

    @override
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._measurer.end_batch()
        mixture = check_mixture(trainer)
        if self._agreement is not None and not self._agreement.holds(*self._held(mixture)):
            _check_agreement(mixture, self._progress.updates, pl_module.device)
        if self._steps.after_batch(trainer, pl_module) and self._is_due(self._steps.done):
            self._update(trainer, pl_module)

    def _held(self, mixture: Mixture) -> tuple[int, int]:
        """What must be equal on all ranks at every step: the version of the weights, and their checksum."""
        version = mixture.weights_version
        if self._checked[0] != version:
            self._checked = version, _checksum(mixture)
        return self._checked

    def _update(self, trainer: Any, pl_module: Any) -> None:
        started = time.perf_counter()
        mixture, progress = check_mixture(trainer), self._progress
        with self._phase("aligning", trainer, pl_module):
            _check_agreement(mixture, progress.updates, pl_module.device)
            alignments = self._measurer.measure(
                trainer, pl_module, progress.updates, self.every_n_steps or 1, progress.alignments
            )
        weights, state, averages = mixture.weights, progress.rule, progress.averages
        exposure = _exposure(trainer, self.every_n_steps)
        if alignments is None:
            self._pass_over(trainer)
        else:
            self._not_finite = 0
            seen = alignments
            if alignments.targets:
                averages = averages.updated(alignments, self.alignment_ema if self.alignment_ema < 1 else _NOISE_EMA)
                seen = averages.smoothed(alignments) if self.alignment_ema < 1 else alignments
            weights, state = self.rule.update(weights, seen, state, exposure)
            weights = broadcast(weights, pl_module.device)
        staleness = mixture.staleness
        self._commit(
            replace(
                progress,
                updates=progress.updates + 1,
                step=self._steps.done,
                weights=weights,
                rule=state,
                alignments=alignments or progress.alignments,
                averages=averages,
                estimator=self._measurer.chosen,
                estimator_state=self._measurer.state_dict(),
                seconds=progress.seconds + self._measurer.take_seconds() + time.perf_counter() - started,
            ),
            mixture,
        )
        # staleness of the previous weights, read before the new ones were set
        metrics = self._metrics(mixture) | {"dga/staleness": float(staleness)}
        self._monitored.update(trainer, metrics)
        monitoring.log(trainer, metrics)
        if alignments is not None:
            self._target_loss_step = trainer.global_step
        moving = self.moves_weights and not traits(self.rule).limits_repetition
        self._advise(advice.in_training(mixture.domain_names, weights, exposure, moving=moving))
        self._advise(advice.on_noise(averages.signal_to_noise, self._progress.updates))

    def _pass_over(self, trainer: Any) -> None:
        """Skips an update whose target gradient is not finite; ends the run after too many in a row."""
        step, scale = trainer.global_step, loss_scale(trainer)
        # a loss scaler starts with a large scale, and halves it at every overflow; such updates are not counted
        searches, self._scale = 1 <= scale < self._scale, scale
        self._not_finite = 0 if searches else self._not_finite + 1
        why = f"; the loss scale still falls, to {scale:g}" if searches else ""
        rank_zero_warn(
            f"The target gradient is not finite at step {step}{why}, or a target batch was given no loss; the mixture "
            "stays as it is."
        )
        if self._not_finite == _MOST_NOT_FINITE:
            raise FloatingPointError(
                f"The target gradient was not finite in {_MOST_NOT_FINITE} alignments in a row, the last after "
                f"step {step}: the model is lost, or no target batch is given a loss. Go back to an earlier "
                "checkpoint, with a lower learning rate, or define an `alignment_loss(batch)` that has one."
            )

    @override
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        # a hook that skips the rest of an epoch leaves its batch without `on_train_batch_end`
        self._measurer.end_batch()
        self._refresh_target_loss(trainer, pl_module)

    @override
    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.training or (trainer.validating and trainer.state.fn == "fit" and not trainer.sanity_checking):
            self._refresh_target_loss(trainer, pl_module)

    def _refresh_target_loss(self, trainer: Any, pl_module: Any) -> None:
        """Measures the target loss again if it is monitored, so that no check sees an outdated value."""
        step = trainer.global_step
        known = step == self._target_loss_step or not check_mixture(trainer).target_names
        if known or not monitoring.is_monitored(trainer, monitoring.TARGET_LOSS):
            return
        with self._phase("measuring the target loss", trainer, pl_module):
            losses = self._measurer.target_losses(trainer, pl_module, self._progress.updates)
        self._target_loss_step = step
        self._monitored.add(trainer, monitoring.target_metrics(losses))

    def _metrics(self, mixture: Mixture) -> dict[str, float]:
        progress = self._progress
        measured = mixture.domain_names if self._measured_over is None else self._measured_over.names
        return monitoring.mixture_metrics(mixture, progress.seconds) | monitoring.alignment_metrics(
            mixture, measured, progress.alignments, progress.averages.signal_to_noise
        )

    @override
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self._agreement is not None:
            if not self._agreement.ended():
                _check_agreement(check_mixture(trainer), self._progress.updates, pl_module.device)
            self._agreement.close()
        self._leave()

    @override
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._leave()

    @override
    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            self._handover.give(trainer, self.state_dict)

    def _take_over(self) -> None:
        """Continues from a run that was done for this process by others, such as spawned ones."""
        state = self._handover.take()
        if state is not None:
            self.load_state_dict(state)
            self._restored = False

    @override
    def state_dict(self) -> dict[str, Any]:
        """The state that the next update depends on. Runs no collective, so it is safe at any moment on any rank."""
        self._take_over()
        return {
            "format": _STATE_FORMAT,
            **self._progress.state_dict(),
            "training_steps": self._steps.state,
            "of": self._described.state_dict() if self._described is not None else None,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from :meth:`state_dict`.

        Raises:
            ValueError: If it was written in a newer format.
        """
        if state_dict["format"] > _STATE_FORMAT:
            raise ValueError(
                f"The checkpoint's callback state has format {state_dict['format']}, this version reads up to "
                f"{_STATE_FORMAT}. Upgrade lightning-dga."
            )
        fields = dict(state_dict)
        del fields["format"]
        described = fields.pop("of", None)
        self._described = Described.from_state_dict(described) if described is not None else None
        self._steps = TrainingSteps(fields.pop("training_steps", None))
        self._restored = True
        self._progress = Progress.from_state_dict(fields)

    def _phase(self, name: str, trainer: Any, pl_module: Any) -> AbstractContextManager[None]:
        """A phase that involves all ranks; an error on one rank ends it on all."""
        if self._watchdog is None:
            return nullcontext()
        return self._watchdog.phase(name, trainer.global_step, pl_module.device)

    def _leave(self) -> None:
        """Restores the model and stops the watchdog, wherever the run ends."""
        self._measurer.abandon()
        if self._watchdog is not None:
            self._watchdog.stop()

    def _advise(self, found: Iterable[advice.Advice]) -> None:
        for key, message in found:
            if key not in self._advised:
                self._advised.add(key)
                rank_zero_warn(message)

    def _commit(self, progress: Progress, mixture: Mixture) -> None:
        """Applies an update, to the callback's state first, so that a checkpoint taken in between contains it."""
        weights = progress.weights
        assert weights is not None
        changed = not torch.equal(weights, mixture.weights)
        version = mixture.weights_version + changed
        self._progress = replace(progress, weights_version=version)
        if changed:
            mixture.set_weights(weights)


def _checksum(mixture: Mixture) -> int:
    return zlib.crc32(mixture.weights.numpy().tobytes())


def _check_agreement(mixture: Mixture, update: int, device: torch.device) -> None:
    """Raises if ranks hold different mixtures; costs one all-reduce of a few numbers."""
    held = torch.tensor([mixture.weights_version, _checksum(mixture), update])
    others = differing_ranks(held, device)
    if others:
        raise RuntimeError(
            f"Ranks {others[:8]} hold other weights than the rest at update {update}; this rank has version "
            f"{mixture.weights_version}. Call `set_weights` with the same weights at the same step on every rank."
        )


def _exposure(trainer: Any, every_n_steps: int | None) -> DataBudget:
    mixture = check_mixture(trainer)
    sizes = mixture.domain_sizes.double()
    known = torch.where(sizes > 0, sizes, torch.inf)
    length = run_length(trainer, mixture, every_n_steps)
    return DataBudget(
        mixture.samples_seen.double(), known, length.planned, length.least, length.period, length.may_end_early
    )


def _planned_samples(trainer: Any) -> float | None:
    """Training samples of the whole run over all ranks; ``None`` if the Trainer has no limit."""
    return run_length(trainer, check_mixture(trainer)).planned
