"""All that the engine asks of a Lightning Trainer: its precision, batch transfer, loss scale, step size and loggers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lightning_dga._lightning import DummyLogger
from lightning_dga.alignment import LossFunction, ProbeLoss, TrainingStep
from lightning_dga.engine.protocols import Mixture


def probe_loss(trainer: Any, pl_module: Any, loss: LossFunction, origin: Callable[[Any], str]) -> ProbeLoss:
    """A loss computed under the Trainer's precision, on batches transferred as the Trainer transfers them."""
    return ProbeLoss(
        pl_module,
        loss,
        forward_context=trainer.precision_plugin.forward_context,
        scale=loss_scale(trainer),
        transfer=lambda batch: _transfer(trainer, pl_module, batch),
        origin=origin,
    )


def mixture_of(trainer: Any) -> Mixture:
    """The Trainer's data module."""
    mixture: Mixture = trainer.datamodule
    return mixture


def training_step(trainer: Any, period: int) -> TrainingStep:
    """The samples of an optimizer step over all ranks, and how many steps lie between measurements."""
    mixture = mixture_of(trainer)
    samples = mixture.batch_size * trainer.world_size * trainer.accumulate_grad_batches
    return TrainingStep(samples, mixture.pure_batches or mixture.batch_size == 1, period)


def loss_scale(trainer: Any) -> float:
    """The scale by which the gradient scaler multiplies a loss before the backward pass; 1 without a scaler."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return float(scaler.get_scale()) if scaler is not None else 1.0


def loss_factor(trainer: Any) -> float:
    """The factor by which Lightning multiplies a batch's loss before the backward pass."""
    return loss_scale(trainer) / float(trainer.accumulate_grad_batches)


def _transfer(trainer: Any, pl_module: Any, batch: Any) -> Any:
    """Transfers a batch as the training loop does before ``training_step``."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = pl_module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


def reachable(trainer: Any) -> list[Any]:
    """What ``training_step`` can reach by ``self.optimizers()`` and ``self.lr_schedulers()``, and may step by hand."""
    schedulers = [config.scheduler for config in trainer.strategy.lr_scheduler_configs]
    return [*trainer.optimizers, *schedulers]


@contextmanager
def loggers_muted(trainer: Any) -> Iterator[None]:
    """Replaces loggers that ``training_step`` may write to directly, and restores ``should_stop`` if it was set."""
    loggers, should_stop = trainer.loggers, trainer.should_stop
    trainer.loggers = [DummyLogger() for _ in loggers]
    try:
        yield
    finally:
        trainer.loggers, trainer.should_stop = loggers, should_stop
