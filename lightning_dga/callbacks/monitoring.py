"""Metrics for a Trainer's loggers, and for the callbacks and schedulers that monitor a metric."""

from collections.abc import Iterable
from typing import Any

import torch


def log(trainer: Any, metrics: dict[str, float]) -> None:
    """Sends metrics to all loggers, at the step under which Lightning logs the training metrics of the same batch.

    That step counts batches, unlike ``trainer.global_step``, which counts the steps of every optimizer.
    """
    for logger in trainer.loggers:
        logger.log_metrics(metrics, step=trainer.fit_loop.epoch_loop._batches_that_stepped)


class Monitored:
    """This package's metrics in ``trainer.callback_metrics``, where callbacks and schedulers look up what they monitor.

    They are written there directly, as by Lightning's ``LearningRateMonitor``: the module's ``log`` would update them
    only at the trainer's logging interval, and mix them with the metrics that the module itself logs.
    """

    def __init__(self) -> None:
        self._shown: set[str] = set()

    def update(self, trainer: Any, metrics: dict[str, float]) -> None:
        """Replaces the metrics published before."""
        for name in self._shown - metrics.keys():
            trainer.callback_metrics.pop(name, None)
        self.add(trainer, metrics)
        self._shown = set(metrics)

    def add(self, trainer: Any, metrics: dict[str, float]) -> None:
        """Publishes further metrics beside the others."""
        device = trainer.strategy.root_device
        trainer.callback_metrics.update(
            {name: torch.tensor(value, dtype=torch.float32, device=device) for name, value in metrics.items()}
        )
        self._shown |= metrics.keys()


def is_monitored(trainer: Any, name: str) -> bool:
    """Whether a callback or a learning rate scheduler monitors a metric, or one below it (``name/…``)."""
    return any(monitor == name or monitor.startswith(f"{name}/") for monitor in _monitors(trainer))


def _monitors(trainer: Any) -> Iterable[str]:
    watchers = [*trainer.callbacks, *trainer.lr_scheduler_configs]
    found = (getattr(watcher, "monitor", None) for watcher in watchers)
    return [monitor for monitor in found if isinstance(monitor, str)]
