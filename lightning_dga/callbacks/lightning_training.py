"""A Lightning Trainer's run as the training that the engine serves."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from typing_extensions import override

from lightning_dga._lightning import DummyLogger, rank_zero_info, rank_zero_warn
from lightning_dga.alignment import LossFunction, find_loss, training_step_loss
from lightning_dga.callbacks.run_length import run_length
from lightning_dga.callbacks.steps import TrainingSteps
from lightning_dga.engine.protocols import Training
from lightning_dga.engine.run_length import RunLength


class LightningTraining(Training):
    """The Trainer's precision, devices, optimizers, steps, limits and messages.

    Args:
        trainer: The Trainer, during ``fit``.
        pl_module: Its module.
        steps: The count of training steps.
        loss_fn: The user's choice of the loss that is aligned; see :func:`~lightning_dga.alignment.find_loss`.
    """

    def __init__(self, trainer: Any, pl_module: Any, steps: TrainingSteps, loss_fn: LossFunction | None) -> None:
        self._trainer = trainer
        self._module = pl_module
        self._steps = steps
        self._alignment_loss = find_loss(pl_module, loss_fn)

    @property
    @override
    def module(self) -> Any:
        return self._module

    @property
    @override
    def alignment_loss(self) -> LossFunction:
        return self._alignment_loss

    @property
    @override
    def training_loss(self) -> LossFunction:
        return training_step_loss

    @property
    @override
    def optimizers(self) -> Sequence[Any]:
        found: Sequence[Any] = self._trainer.optimizers
        return found

    @property
    @override
    def device(self) -> torch.device:
        device: torch.device = self.module.device
        return device

    @property
    @override
    def steps(self) -> int:
        return self._steps.done

    @property
    @override
    def optimizer_steps(self) -> int:
        return int(self._trainer.global_step)

    @property
    @override
    def accumulated_batches(self) -> int:
        return int(self._trainer.accumulate_grad_batches)

    @property
    @override
    def loss_scale(self) -> float:
        scaler = getattr(self._trainer.precision_plugin, "scaler", None)
        return float(scaler.get_scale()) if scaler is not None else 1.0

    @property
    @override
    def has_one_backward(self) -> bool:
        return bool(self.module.automatic_optimization) and len(self.optimizers) == 1

    @override
    def forward_context(self) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = self._trainer.precision_plugin.forward_context()
        return context

    @override
    def transfer(self, batch: Any) -> Any:
        batch = self._trainer.precision_plugin.convert_input(batch)
        batch = self.module._on_before_batch_transfer(batch, dataloader_idx=0)
        return self._trainer.strategy.batch_to_device(batch, dataloader_idx=0)

    @override
    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        # `training_step` may write to a logger directly, and may ask the Trainer to stop
        trainer = self._trainer
        loggers, should_stop = trainer.loggers, trainer.should_stop
        trainer.loggers = [DummyLogger() for _ in loggers]
        try:
            yield
        finally:
            trainer.loggers, trainer.should_stop = loggers, should_stop

    @override
    def reachable(self) -> Sequence[Any]:
        # by `self.optimizers()` and `self.lr_schedulers()`, which `training_step` may step by hand
        schedulers = [config.scheduler for config in self._trainer.strategy.lr_scheduler_configs]
        return [*self.optimizers, *schedulers]

    @override
    def run_length(self, every_n_steps: int | None) -> RunLength:
        return run_length(self._trainer, self._trainer.datamodule, every_n_steps)

    @override
    def inform(self, message: str) -> None:
        rank_zero_info(message)

    @override
    def warn(self, message: str) -> None:
        rank_zero_warn(message)
