"""The callback: when to align, what is logged, what is checkpointed. The only room that knows a Trainer's loops."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from typing_extensions import override

from lightning_dga._lightning import Callback, DummyLogger, MisconfigurationException, rank_zero_warn
from lightning_dga.alignment import (
    ESTIMATORS,
    Estimator,
    LossFunction,
    Measurement,
    ProbeLoss,
    Probes,
    find_loss,
    isolated,
    uses_training_step,
)
from lightning_dga.alignments import Alignments
from lightning_dga.distributed import from_first_process
from lightning_dga.reweighting import Rule, RuleState, make_rule

_STATE_FORMAT = 1
_LOGGED_DOMAINS = 64


@runtime_checkable
class Mixture(Protocol):
    """What the callback asks of a data module; :class:`~lightning_dga.MixtureDataModule` has it."""

    @property
    def domain_names(self) -> tuple[str, ...]:
        """The k domain names."""
        ...

    @property
    def weights(self) -> Tensor:
        """The newest weights, ``[k]`` float64."""
        ...

    @property
    def weights_version(self) -> int:
        """How often the weights have been set."""
        ...

    def set_weights(self, weights: Tensor) -> None:
        """Changes the weights."""
        ...

    def probes(self, update: int, size: int) -> Probes:
        """The samples for an update, ``size`` of each domain."""
        ...


@dataclass(frozen=True)
class _Progress:
    """All that a checkpoint holds, replaced as one at the end of an update, so that no reader ever sees half of it."""

    updates: int = 0
    step: int = 0
    weights: Tensor | None = None
    weights_version: int = 0
    rule: RuleState = field(default_factory=dict)
    alignments: Alignments | None = None
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
        estimator: How alignments are measured: ``"auto"``, ``"backward"``, or an
            :class:`~lightning_dga.alignment.Estimator`.
        rule: How alignments become weights: ``"dga"``, ``"dga_paper"``, ``"static"`` (measures and never moves the
            weights), ``"uniform"``, or a :class:`~lightning_dga.reweighting.Rule` such as ``Importance(histogram)``.
        probe_batch_size: Samples of each domain for an alignment, over all processes together.
        loss_fn: ``loss_fn(pl_module, batch)``: a scalar mean, or one loss per sample.

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
        estimator: str | Estimator = "auto",
        rule: str | Rule = "dga",
        probe_batch_size: int = 4,
        loss_fn: LossFunction | None = None,
    ) -> None:
        for name, value in {"every_n_steps": every_n_steps, "probe_batch_size": probe_batch_size}.items():
            never = value is None and name == "every_n_steps"
            if not never and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")
        if isinstance(estimator, str) and estimator not in ESTIMATORS:
            raise ValueError(f"`estimator` {estimator!r} is unknown; choose one of {', '.join(sorted(ESTIMATORS))}.")
        if not isinstance(rule, str) and (step_size is not None or ema is not None):
            raise ValueError("`rule` is an object: give `step_size` and `ema` to the rule object.")
        self.every_n_steps = every_n_steps
        self.probe_batch_size = probe_batch_size
        self.estimator: Estimator = ESTIMATORS[estimator]() if isinstance(estimator, str) else estimator
        self.rule: Rule = make_rule(rule, step_size=step_size, ema=ema) if isinstance(rule, str) else rule
        self._loss_fn = loss_fn
        self._progress = _Progress()

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
        if progress.weights is None:
            weights, state = self.rule.start(mixture.domain_names, mixture.weights)
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

    @override
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if step <= self._progress.step or not self.should_update(step):
            return
        started = time.perf_counter()
        mixture, progress = _mixture(trainer), self._progress
        alignments = self._measure(trainer, pl_module, mixture, step)
        weights, state = mixture.weights, progress.rule
        if alignments is None:
            rank_zero_warn(f"The target gradient is not finite at step {step}; the mixture stays as it is.")
        else:
            weights, state = self.rule.update(weights, alignments, state)
            weights = from_first_process(weights, pl_module.device)
        self._commit(
            _Progress(
                updates=progress.updates + 1,
                step=step,
                weights=weights,
                weights_version=progress.weights_version,
                rule=state,
                alignments=alignments or progress.alignments,
                seconds=progress.seconds + time.perf_counter() - started,
            ),
            mixture,
        )
        self._log(trainer, mixture)

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
        self._progress = _Progress(**fields)

    def _commit(self, progress: _Progress, mixture: Mixture) -> None:
        """Puts an update in force; should a checkpoint fall between its halves, the callback's is complete."""
        weights = progress.weights
        assert weights is not None
        changed = not torch.equal(weights, mixture.weights)
        version = mixture.weights_version + changed
        self._progress = replace(progress, weights_version=version)
        if changed:
            mixture.set_weights(weights)

    def _measure(self, trainer: Any, pl_module: Any, mixture: Mixture, step: int) -> Alignments | None:
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        update = self._progress.updates
        with isolated(pl_module), _loggers_muted(trainer):
            loss = ProbeLoss(
                pl_module,
                find_loss(pl_module, self._loss_fn),
                forward_context=trainer.precision_plugin.forward_context,
                scale=float(scaler.get_scale()) if scaler is not None else 1.0,
                transfer=lambda batch: _transfer(trainer, pl_module, batch),
            )
            return self.estimator.measure(
                Measurement(
                    pl_module,
                    loss,
                    parameters=[p for p in pl_module.parameters() if p.requires_grad],
                    probes=mixture.probes(update, self.probe_batch_size),
                    num_domains=len(mixture.domain_names),
                    step=step,
                )
            )

    def _log(self, trainer: Any, mixture: Mixture) -> None:
        metrics = _metrics(mixture, self._progress)
        for logger in trainer.loggers:
            # the step that Lightning gives the training metrics of this same batch
            logger.log_metrics(metrics, step=trainer.global_step - 1)


def _metrics(mixture: Mixture, progress: _Progress) -> dict[str, float]:
    weights, alignments = mixture.weights, progress.alignments
    entropy = -torch.special.xlogy(weights, weights).sum()
    metrics = {"dga/effective_domains": entropy.exp().item(), "dga/weights_version": float(mixture.weights_version)}
    metrics["dga/seconds"] = progress.seconds
    shown = weights.topk(min(len(weights), _LOGGED_DOMAINS)).indices.sort().values.tolist()
    metrics |= {f"dga/weight/{mixture.domain_names[i]}": weights[i].item() for i in shown}
    if alignments is not None:
        metrics |= {f"dga/alignment/{mixture.domain_names[i]}": alignments.values[i].item() for i in shown}
        metrics |= {"dga/target_loss": alignments.target_loss, "dga/target_norm": alignments.target_norm}
    return metrics


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
    supported = ("SingleDeviceStrategy", "DDPStrategy", "SingleDeviceXLAStrategy")
    if not any(kind.__name__ in supported for kind in type(trainer.strategy).__mro__):
        raise MisconfigurationException(
            f"DynamicGradientAlignment does not know how {type(trainer.strategy).__name__} spreads a model over "
            "processes. Use one device or `strategy='ddp'`."
        )


def _transfer(trainer: Any, pl_module: Any, batch: Any) -> Any:
    """What the training loop does with a batch before the step."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = pl_module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


@contextmanager
def _loggers_muted(trainer: Any) -> Iterator[None]:
    """A ``training_step`` that writes to its logger directly writes to nobody."""
    loggers = trainer.loggers
    trainer.loggers = [DummyLogger() for _ in loggers]
    try:
        yield
    finally:
        trainer.loggers = loggers
