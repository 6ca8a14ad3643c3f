"""The callback: when to align, what is logged, what is checkpointed. The only room that knows a Trainer's loops."""

import re
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_dga import advice
from lightning_dga._lightning import Callback, MisconfigurationException, rank_zero_warn
from lightning_dga.alignment import (
    ESTIMATORS,
    Auto,
    Estimator,
    LossFunction,
    StepEstimator,
    find_loss,
    uses_training_step,
)
from lightning_dga.alignments import Alignments
from lightning_dga.averages import AlignmentAverages
from lightning_dga.distributed import differing_processes, from_first_process
from lightning_dga.exposure import Exposure
from lightning_dga.measuring import Measurer, Settings
from lightning_dga.mixture import Mixture
from lightning_dga.reweighting import DistributionReweighting, Rule, RuleState, Static, make_rule
from lightning_dga.watchdog import Watchdog

_STATE_FORMAT = 1
_LOGGED_DOMAINS = 64
# of the moments that signal-to-noise is taken from, where the rule's own average has none
_NOISE_EMA = 0.1
# some may come of a loss scale that was raised too far
_MOST_NOT_FINITE = 10


@dataclass(frozen=True)
class _Progress:
    """All that a checkpoint holds, replaced as one at the end of an update, so that no reader ever sees half of it."""

    updates: int = 0
    step: int = 0
    weights: Tensor | None = None
    weights_version: int = 0
    rule: RuleState = field(default_factory=dict)
    alignments: Alignments | None = None
    averages: AlignmentAverages = field(default_factory=AlignmentAverages)
    estimator: str | None = None
    seconds: float = 0.0


class DynamicGradientAlignment(Callback):
    """Moves the mixture toward the domains whose gradients lower the target loss, while the model trains.

    Every ``every_n_steps`` optimizer steps it measures the alignment ``a_i = <grad L_i, grad L_target>`` of each domain
    on a few probe samples, lets the rule turn the alignments into weights, and gives these to the data module. Training
    itself is left as it was: gradients, optimizer, loss scaler, random numbers, buffers, modes and metrics. The method
    is *Dynamic Gradient Alignment for Online Data Mixing* (arXiv 2410.02498).

    The loss that is aligned is the module's ``alignment_loss(batch)`` where it defines one, else ``loss_fn``, else its
    ``training_step``, run in evaluation mode so that nothing that it logs or updates is kept.

    Args:
        every_n_steps: Reweighting period T_r in optimizer steps; ``None`` never measures, which leaves a rule's first
            weights, as importance sampling has them.
        step_size: η of the rule; ``None`` takes the rule's default.
        ema: β of the rule, the share of the new weights in the moving average; ``None`` takes the rule's default.
        estimator: How alignments are measured: ``"auto"`` (the cheapest that agrees with the reference on this model),
            ``"in_step"``, ``"backward"`` (the reference), ``"batched"``, ``"finite_difference"``, or an
            :class:`~lightning_dga.alignment.Estimator` or :class:`~lightning_dga.alignment.StepEstimator`.
        rule: How alignments become weights: ``"dga"``, ``"dga_paper"``, ``"static"`` (measures and never moves the
            weights), ``"uniform"``, or a :class:`~lightning_dga.reweighting.Rule` such as ``Importance(histogram)``.
        probe_batch_size: Samples of each domain for an alignment, over all processes together.
        loss_fn: ``loss_fn(pl_module, batch)``: a scalar mean, or one loss per sample.
        parameters: A regular expression that the names of the parameters to align over must match somewhere, as
            ``"lora_"`` or ``"^(?!.*embedding)"``; all trainable ones if not given.
        preconditioner: ``"adam"`` multiplies the target gradient with the diagonal that the Adam or AdamW in use
            divides by, so that an alignment is that of the optimizer's own step.
        alignment_ema: Share of the newest alignments in the average that the rule sees; 1 shows it each as it is.
        max_age: For estimators that take what a training step holds: after how many updates a domain that was in none
            is probed.
        prior: A guess at the shares that domains deserve, such as a histogram of the target over the domains
            (``dga-domains histogram``); the run starts with it, and the default rule leaves it where alignments
            contradict it.
        timeout: Seconds that several processes may take over an alignment. Then the run is ended, and the message says
            which process the others have waited for and where it is, or that it has died.

    Attributes:
        alignments: The last :class:`~lightning_dga.alignments.Alignments`; ``None`` before the first.
        seconds: Time spent aligning so far, in seconds.

    Raises:
        ValueError: If an argument is out of its range, or no such rule or estimator exists.
        MisconfigurationException: When training starts, if the data module, the strategy or the module cannot be used.

    Example::

        datamodule = MixtureDataModule(domains={"wiki": wiki, "code": code}, target=target, batch_size=32)
        trainer = L.Trainer(callbacks=[DynamicGradientAlignment(every_n_steps=100)])
        trainer.fit(model, datamodule=datamodule)
    """

    def __init__(
        self,
        every_n_steps: int | None = 100,
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
        sizes = {"every_n_steps": every_n_steps, "probe_batch_size": probe_batch_size, "max_age": max_age}
        for name, value in sizes.items():
            never = value is None and name == "every_n_steps"
            if not never and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")
        if isinstance(estimator, str) and estimator not in ESTIMATORS:
            raise ValueError(f"`estimator` {estimator!r} is unknown; choose one of {', '.join(sorted(ESTIMATORS))}.")
        if not isinstance(rule, str) and any(given is not None for given in (step_size, ema, prior)):
            raise ValueError("`rule` is an object: give `step_size`, `ema` and `prior` to the rule object.")
        if preconditioner not in (None, "adam"):
            raise ValueError(f"`preconditioner` must be 'adam' or None, got {preconditioner!r}.")
        if not 0 < alignment_ema <= 1:
            raise ValueError(f"`alignment_ema` must be in (0, 1], got {alignment_ema}; 1 switches the average off.")
        if timeout <= 0:
            raise ValueError(f"`timeout` must be positive, got {timeout}.")
        try:
            re.compile(parameters or "")
        except re.error as error:
            raise ValueError(f"`parameters` {parameters!r} is not a regular expression: {error}.") from error
        self.every_n_steps = every_n_steps
        self.probe_batch_size = probe_batch_size
        self.alignment_ema = alignment_ema
        self.rule: Rule = make_rule(rule, step_size=step_size, ema=ema, prior=prior) if isinstance(rule, str) else rule
        self._loss_fn = loss_fn
        self._measurer = Measurer(
            ESTIMATORS[estimator]() if isinstance(estimator, str) else estimator,
            Settings(probe_batch_size, loss_fn, parameters, preconditioner, max_age),
        )
        self._progress = _Progress()
        self._timeout = timeout
        self._watchdog = Watchdog(timeout)
        self._not_finite = 0
        self._advised: set[str] = set()

    @property
    def alignments(self) -> Alignments | None:
        """What was measured last."""
        return self._progress.alignments

    @property
    def seconds(self) -> float:
        """Time spent aligning so far, in seconds."""
        return self._progress.seconds

    def should_update(self, step: int) -> bool:
        """Whether to align after an optimizer step; override it for a schedule of your own.

        Args:
            step: Optimizer steps done (``trainer.global_step``).
        """
        period = self.every_n_steps
        return period is not None and step // period > self._progress.step // period

    @override
    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage != "fit":
            return
        _mixture(trainer)
        _check_strategy(trainer)
        loss = find_loss(pl_module, self._loss_fn)
        if uses_training_step(loss) and not pl_module.automatic_optimization:
            raise MisconfigurationException(
                f"{type(pl_module).__name__} optimizes manually, so its `training_step` cannot measure a loss. "
                "Define `alignment_loss(batch)` on it, or give the callback `loss_fn(pl_module, batch)`."
            )

    @override
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        if not any(parameter.requires_grad for parameter in pl_module.parameters()):
            raise MisconfigurationException(
                f"{type(pl_module).__name__} has no trainable parameter, so there is no gradient to align."
            )
        mixture = _mixture(trainer)
        progress = self._progress
        if isinstance(self.rule, DistributionReweighting):
            self._measurer.mixtures = self.rule.mixtures(mixture.domain_names)
        if progress.weights is None:
            try:
                weights, state = self.rule.start(mixture.domain_names, mixture.weights, _exposure(trainer))
            except ValueError as error:
                # a prior or histogram that does not fit these domains
                raise MisconfigurationException(str(error)) from error
            self._commit(_Progress(weights=weights, weights_version=mixture.weights_version, rule=state), mixture)
        elif len(progress.weights) != len(mixture.domain_names):
            raise MisconfigurationException(
                f"The callback holds the weights of {len(progress.weights)} domains, the data module has "
                f"{len(mixture.domain_names)}. Use a new callback for another mixture."
            )
        elif progress.weights_version > mixture.weights_version:
            # the checkpoint was written between the two halves of an update
            mixture.set_weights(progress.weights)

    @override
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.global_step < self._progress.step:
            # a new run, which counts its steps from the start, goes on with the mixture of the one before
            self._progress = replace(self._progress, step=trainer.global_step)
        self._watchdog = Watchdog(self._timeout)
        self._watchdog.start()
        if self.every_n_steps is not None:
            self._measurer.preferred = self._progress.estimator
            with self._watchdog.phase("preparing to align", trainer.global_step):
                self._measurer.prepare(trainer, pl_module, self._progress.updates, self.every_n_steps)
            self._advise(advice.before_training(self.rule, self.every_n_steps, trainer.max_steps))

    @override
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        progress, following = self._progress, trainer.global_step + 1
        due = following > progress.step and self.should_update(following)
        with self._watchdog.phase("aligning", trainer.global_step) if due else nullcontext():
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
        step = trainer.global_step
        if step <= self._progress.step or not self.should_update(step):
            return
        started = time.perf_counter()
        mixture, progress = _mixture(trainer), self._progress
        with self._watchdog.phase("aligning", step):
            _check_agreement(mixture, progress.updates, pl_module.device)
            alignments = self._measurer.measure(
                trainer, pl_module, progress.updates, self.every_n_steps or 1, progress.alignments
            )
        self._not_finite = self._not_finite + 1 if alignments is None else 0
        weights, state, averages = mixture.weights, progress.rule, progress.averages
        if alignments is None:
            rank_zero_warn(f"The target gradient is not finite at step {step}; the mixture stays as it is.")
            if self._not_finite == _MOST_NOT_FINITE:
                raise FloatingPointError(
                    f"The target gradient was not finite in {_MOST_NOT_FINITE} alignments in a row, the last after "
                    f"step {step}: the model is lost. Go back to an earlier checkpoint, with a lower learning rate."
                )
        else:
            averages = averages.updated(alignments, self.alignment_ema if self.alignment_ema < 1 else _NOISE_EMA)
            seen = averages.smoothed(alignments) if self.alignment_ema < 1 else alignments
            weights, state = self.rule.update(weights, seen, state, _exposure(trainer))
            weights = from_first_process(weights, pl_module.device)
        staleness = mixture.staleness
        self._commit(
            replace(
                progress,
                updates=progress.updates + 1,
                step=step,
                weights=weights,
                rule=state,
                alignments=alignments or progress.alignments,
                averages=averages,
                estimator=self._measurer.chosen,
                seconds=progress.seconds + self._measurer.take_seconds() + time.perf_counter() - started,
            ),
            mixture,
        )
        self._log(trainer, mixture, staleness)
        moving = not isinstance(self.rule, Static)
        self._advise(advice.in_training(mixture.domain_names, weights, _exposure(trainer), moving=moving))
        self._advise(advice.on_noise(averages.signal_to_noise, self._progress.updates))

    @override
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._measurer.abandon()
        self._watchdog.stop()

    @override
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._measurer.abandon()
        self._watchdog.stop()

    @override
    def state_dict(self) -> dict[str, Any]:
        """What the next update depends on: a local read, safe at any moment and on any process."""
        progress = self._progress
        return {
            "format": _STATE_FORMAT,
            "updates": progress.updates,
            "step": progress.step,
            "weights": progress.weights,
            "weights_version": progress.weights_version,
            "rule": progress.rule,
            "alignments": progress.alignments.state_dict() if progress.alignments is not None else None,
            "averages": progress.averages.state_dict(),
            "estimator": progress.estimator,
            "seconds": progress.seconds,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from :meth:`state_dict`.

        Raises:
            ValueError: If it was written in a later format.
        """
        if state_dict["format"] > _STATE_FORMAT:
            raise ValueError(
                f"The checkpoint's callback state has format {state_dict['format']}, this version reads up to "
                f"{_STATE_FORMAT}. Upgrade lightning-dga."
            )
        fields = {name: value for name, value in state_dict.items() if name != "format"}
        if fields["alignments"] is not None:
            fields["alignments"] = Alignments.from_state_dict(fields["alignments"])
        fields["averages"] = AlignmentAverages.from_state_dict(fields.get("averages", {}))
        self._progress = _Progress(**fields)

    def _advise(self, found: Iterable[advice.Advice]) -> None:
        for key, message in found:
            if key not in self._advised:
                self._advised.add(key)
                rank_zero_warn(message)

    def _commit(self, progress: _Progress, mixture: Mixture) -> None:
        """Puts an update in force; should a checkpoint fall between its halves, the callback's is complete."""
        weights = progress.weights
        assert weights is not None
        changed = not torch.equal(weights, mixture.weights)
        version = mixture.weights_version + changed
        self._progress = replace(progress, weights_version=version)
        if changed:
            mixture.set_weights(weights)

    def _log(self, trainer: Any, mixture: Mixture, staleness: int) -> None:
        measured = self.rule.names if isinstance(self.rule, DistributionReweighting) else mixture.domain_names
        metrics = _metrics(mixture, self._progress, measured) | {"dga/staleness": float(staleness)}
        for logger in trainer.loggers:
            # the step that Lightning gives the training metrics of this same batch
            logger.log_metrics(metrics, step=trainer.global_step - 1)


def _metrics(mixture: Mixture, progress: _Progress, measured: Sequence[str]) -> dict[str, float]:
    weights, alignments = mixture.weights, progress.alignments
    entropy = -torch.special.xlogy(weights, weights).sum()
    metrics = {"dga/effective_domains": entropy.exp().item(), "dga/weights_version": float(mixture.weights_version)}
    metrics["dga/seconds"] = progress.seconds
    shown = weights.topk(min(len(weights), _LOGGED_DOMAINS)).indices.sort().values.tolist()
    metrics |= {f"dga/weight/{mixture.domain_names[i]}": weights[i].item() for i in shown}
    if alignments is not None:
        of_domains = measured == mixture.domain_names
        shown = shown if of_domains else list(range(min(len(measured), _LOGGED_DOMAINS)))
        metrics |= {f"dga/alignment/{measured[i]}": alignments.values[i].item() for i in shown}
        noise = progress.averages.signal_to_noise
        if noise is not None:
            metrics |= {f"dga/signal_to_noise/{measured[i]}": noise[i].item() for i in shown}
        metrics |= {"dga/target_loss": alignments.target_loss, "dga/target_norm": alignments.target_norm}
    return metrics


def _check_agreement(mixture: Mixture, update: int, device: torch.device) -> None:
    """Ends the run where processes would go on with different mixtures; costs a few numbers."""
    held = torch.tensor([mixture.weights_version, zlib.crc32(mixture.weights.numpy().tobytes()), update])
    others = differing_processes(held, device)
    if others:
        raise RuntimeError(
            f"Processes {others[:8]} hold other weights than the rest at update {update}; this one has version "
            f"{mixture.weights_version}. Call `set_weights` with the same weights at the same step on every process."
        )


def _exposure(trainer: Any) -> Exposure:
    mixture = _mixture(trainer)
    sizes = mixture.domain_sizes.double()
    known = torch.where(sizes > 0, sizes, torch.inf)
    return Exposure(mixture.samples_seen.double(), known, _planned_samples(trainer))


def _planned_samples(trainer: Any) -> float | None:
    """Training samples of the whole run, over all processes, where the Trainer's settings say how many."""
    mixture = _mixture(trainer)
    limits = [trainer.max_steps * trainer.accumulate_grad_batches] if trainer.max_steps >= 0 else []
    if trainer.max_epochs is not None and trainer.max_epochs >= 0:
        limits.append(trainer.max_epochs * mixture.batches_per_epoch)
    return float(min(limits) * mixture.batch_size * trainer.world_size) if limits else None


def _mixture(trainer: Any) -> Mixture:
    datamodule = trainer.datamodule
    if not isinstance(datamodule, Mixture):
        what = "no data module" if datamodule is None else f"a {type(datamodule).__name__}"
        raise MisconfigurationException(
            f"DynamicGradientAlignment needs a data module whose weights it can set, the Trainer has {what}. "
            "Call `trainer.fit(model, datamodule=MixtureDataModule(...))`."
        )
    return datamodule


def _check_strategy(trainer: Any) -> None:
    strategy = trainer.strategy
    kinds = {kind.__name__ for kind in type(strategy).__mro__}
    if not kinds & {"SingleDeviceStrategy", "DDPStrategy", "SingleDeviceXLAStrategy", "ModelParallelStrategy"}:
        raise MisconfigurationException(
            f"DynamicGradientAlignment does not know how {type(strategy).__name__} spreads a model over processes. Use "
            "one device, `strategy='ddp'`, or `ModelParallelStrategy` with `fully_shard` (FSDP2) in `configure_model`."
        )
    if "ModelParallelStrategy" in kinds and strategy.device_mesh["tensor_parallel"].size() > 1:
        raise MisconfigurationException(
            "DynamicGradientAlignment does not know the gradients of tensor-parallel parameters. Use "
            "`ModelParallelStrategy(data_parallel_size='auto', tensor_parallel_size=1)` with as many data-parallel "
            "processes as there are devices."
        )
