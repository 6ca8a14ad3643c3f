"""The callback: when to align, what is logged, what is checkpointed."""

import inspect
import re
from collections.abc import Mapping, Sequence
from copy import copy
from reprlib import Repr
from typing import Any, Literal

from torch import Tensor
from typing_extensions import override

from lightning_dga._lightning import Callback, MisconfigurationException
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
from lightning_dga.callbacks.lightning_training import LightningTraining
from lightning_dga.callbacks.monitoring import Monitored
from lightning_dga.callbacks.requirements import (
    check_iterator_step,
    check_mixture,
    check_strategy,
    misconfigurations,
)
from lightning_dga.callbacks.run_length import run_length
from lightning_dga.callbacks.steps import TrainingSteps
from lightning_dga.core.alignments import Alignments
from lightning_dga.core.arguments import an_object, number, one_of, positive_integer
from lightning_dga.engine.measurement import Measurer, Settings
from lightning_dga.engine.metrics import TARGET_LOSS, mixture_metrics, target_metrics
from lightning_dga.engine.reweighting_loop import ReweightingLoop
from lightning_dga.handover import Handover
from lightning_dga.reweighting import Rule, make_rule, traits

_STATE_FORMAT = 1
# of a budget of work, probes of domains that no watched step held lately, in units of the target's samples
_PROBED_SHARE = 0.25
# attributes that are not copied or pickled; Lightning sets `log` and `log_dict` to methods of the module
_OF_A_RUN = {"_monitored", "log", "log_dict"}


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
        every_n_steps: ``"auto"`` measures as often as ``max_overhead`` and ``min_updates`` say, more often early in the
            run. A number is the reweighting period T_r in training steps: batches that end in an optimizer step, or in
            several under manual optimization. ``None`` never measures, which keeps the rule's initial weights, such as
            those of importance sampling.
        max_overhead: With ``every_n_steps="auto"``, work of the measurements relative to that of training, counted in
            forward and backward passes of samples.
        min_updates: With ``every_n_steps="auto"``, updates of a run that is too short for ``max_overhead`` to pay for
            them, as far as they are ten steps apart; a mixture that is measured less often follows the alignments too
            late. 0 keeps to ``max_overhead`` in any run.
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
            not in any watched step is probed. With ``every_n_steps="auto"`` a few of those that the latest step did not
            hold are probed in rotation, too.
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
        every_n_steps: int | Literal["auto"] | None = "auto",
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
        max_overhead: float = 0.02,
        min_updates: int = 70,
    ) -> None:
        if every_n_steps not in (None, "auto"):
            every_n_steps = positive_integer("every_n_steps", every_n_steps)
        _check_budget(max_overhead, min_updates)
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
        self.probe_batch_size = probe_batch_size
        self.max_overhead = max_overhead
        self.min_updates = min_updates
        self.alignment_ema = alignment_ema
        made = make_rule(rule, step_size=step_size, ema=ema, prior=prior) if isinstance(rule, str) else rule
        self._loss_fn = loss_fn
        self._loop = ReweightingLoop(
            made,
            Measurer(
                ESTIMATORS[estimator]() if isinstance(estimator, str) else estimator,
                Settings(
                    probe_batch_size,
                    parameters,
                    preconditioner,
                    max_age,
                    probed_share=_PROBED_SHARE if every_n_steps == "auto" else 0.0,
                    losses=traits(made).losses_only,
                ),
            ),
            every_n_steps=every_n_steps,
            max_overhead=max_overhead,
            min_updates=min_updates,
            alignment_ema=alignment_ema,
            timeout=timeout,
        )
        self._steps = TrainingSteps()
        self._restored = False
        self._handover = Handover()
        self._monitored = Monitored()

    def __getstate__(self) -> dict[str, Any]:
        """The state for a copy or a pickle: settings and progress, without threads and without the model."""
        self._take_over()
        kept = {name: value for name, value in vars(self).items() if name not in _OF_A_RUN}
        # a copy has a progress of its own
        return kept | {"_loop": copy(self._loop)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restores the state, with no run in progress."""
        vars(self).update(state)
        self._monitored = Monitored()

    def __repr__(self) -> str:
        """Settings and progress."""
        self._take_over()
        rule = _Short().repr(self.rule)
        progress = self._loop.progress
        done = f"updates={progress.updates}, seconds={progress.seconds:.1f}" if progress.updates else "updates=0"
        return (
            f"{type(self).__name__}(every_n_steps={self.every_n_steps}, rule={rule}, "
            f"estimator={self._loop.measurer.described}, probe_batch_size={self.probe_batch_size}; {done})"
        )

    @property
    def rule(self) -> Rule:
        """The rule."""
        return self._loop.rule

    @property
    def every_n_steps(self) -> int | str | None:
        """The reweighting period in training steps, or ``"auto"``; ``None`` if nothing is measured."""
        return self._loop.every_n_steps

    @property
    def alignments(self) -> Alignments | None:
        """The latest alignments; ``None`` before the first measurement."""
        self._take_over()
        return self._loop.progress.alignments

    @property
    def seconds(self) -> float:
        """Time spent aligning so far, in seconds."""
        self._take_over()
        return self._loop.progress.seconds

    @property
    def moves_weights(self) -> bool:
        """Whether the rule moves the weights; if not, the weights given to the data module apply, also on resume."""
        return self._loop.moves_weights

    def should_update(self, step: int) -> bool:
        """Whether to align after an optimizer step; override it for a custom schedule.

        Args:
            step: Training steps done: batches that ended in an optimizer step. Under automatic optimization this equals
                ``trainer.global_step``; under manual optimization ``global_step`` counts every optimizer's steps.
        """
        return self._loop.should_update(step)

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
        with misconfigurations():
            self._loop.check_targets(check_mixture(trainer))
        check_strategy(trainer)
        loss = find_loss(pl_module, self._loss_fn)
        if uses_training_step(loss) and not pl_module.automatic_optimization:
            raise MisconfigurationException(
                f"{type(pl_module).__name__} optimizes manually, so its `training_step` cannot measure a loss. "
                "Define `alignment_loss(batch)` on it, or give the callback `loss_fn(pl_module, batch)`."
            )
        if "dataloader_iter" in inspect.signature(pl_module.training_step).parameters:
            check_iterator_step(pl_module, loss, self._loop.measurer.estimator)

    @override
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self._start(trainer, pl_module)

    def _start(self, trainer: Any, pl_module: Any) -> None:
        with misconfigurations():
            training = LightningTraining(trainer, pl_module, self._steps, self._loss_fn)
            self._loop.start(training, check_mixture(trainer))

    @override
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if self._restored:
            # some strategies restore a checkpoint only after `on_fit_start`
            self._start(trainer, pl_module)
        self._steps.start(trainer, pl_module)
        with misconfigurations():
            self._loop.begin()
        self._monitored.update(trainer, self._loop.metrics())
        if trainer.global_step == 0:
            monitoring.log(trainer, mixture_metrics(check_mixture(trainer), self.seconds))
        if self._restored and self._is_due(self._steps.done):
            # the checkpoint was written by a callback that runs before this one, just before an update
            self._update(trainer)
        self._restored = False
        self._refresh_target_loss(trainer)

    def _is_due(self, step: int) -> bool:
        return self._loop.is_due(step) and self.should_update(step)

    @override
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        with misconfigurations():
            self._loop.before_batch(due=self._is_due(self._steps.done + 1))

    @override
    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        self._loop.before_backward(loss)

    @override
    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        self._loop.after_backward()

    @override
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._loop.after_batch()
        if self._steps.after_batch(trainer, pl_module) and self._is_due(self._steps.done):
            self._update(trainer)

    def _update(self, trainer: Any) -> None:
        with misconfigurations():
            self._loop.update()
        metrics = self._loop.metrics()
        self._monitored.update(trainer, metrics)
        monitoring.log(trainer, metrics)

    @override
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        # a hook that skips the rest of an epoch leaves its batch without `on_train_batch_end`
        self._loop.skip_batch()
        self._refresh_target_loss(trainer)

    @override
    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.training or (trainer.validating and trainer.state.fn == "fit" and not trainer.sanity_checking):
            self._refresh_target_loss(trainer)

    def _refresh_target_loss(self, trainer: Any) -> None:
        """Measures the target loss again if it is monitored, so that no check sees an outdated value."""
        losses = self._loop.target_losses() if monitoring.is_monitored(trainer, TARGET_LOSS) else {}
        if losses:
            self._monitored.add(trainer, target_metrics(losses))

    @override
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._loop.finish()

    @override
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._loop.release()

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
        return {"format": _STATE_FORMAT, "training_steps": self._steps.state, **self._loop.state_dict()}

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
        fields = {name: value for name, value in state_dict.items() if name not in ("format", "training_steps")}
        self._steps = TrainingSteps(state_dict.get("training_steps"))
        self._loop.load_state_dict(fields)
        self._restored = True


def _check_budget(max_overhead: float, min_updates: int) -> None:
    if not 0 < number("max_overhead", max_overhead) <= 1:
        raise ValueError(f"`max_overhead` is a share of the training's work, in (0, 1]; got {max_overhead}.")
    if number("min_updates", min_updates) < 0:
        raise ValueError(f"`min_updates` must be 0 or more, got {min_updates}.")


def _planned_samples(trainer: Any) -> float | None:
    """Training samples of the whole run over all ranks; ``None`` if the Trainer has no limit."""
    return run_length(trainer, check_mixture(trainer)).planned
