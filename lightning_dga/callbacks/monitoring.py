"""The mixture's metrics: for loggers, and for the callbacks and schedulers that monitor a metric."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_dga.core.alignments import Alignments
from lightning_dga.engine.protocols import Mixture

TARGET_LOSS = "dga/target_loss"
_SHOWN_DOMAINS = 64


def mixture_metrics(mixture: Mixture, seconds: float) -> dict[str, float]:
    """Metrics of the weights in force, available at any time during a run.

    Args:
        mixture: The data module.
        seconds: Time spent aligning so far.
    """
    weights = mixture.weights
    entropy = -torch.special.xlogy(weights, weights).sum()
    return {
        "dga/effective_domains": entropy.exp().item(),
        "dga/weights_version": float(mixture.weights_version),
        "dga/seconds": seconds,
        **{f"dga/weight/{mixture.domain_names[i]}": weights[i].item() for i in _shown(weights)},
    }


def alignment_metrics(
    mixture: Mixture, measured: Sequence[str], alignments: Alignments | None, signal_to_noise: Tensor | None
) -> dict[str, float]:
    """Metrics of the latest alignments; none before the first.

    Args:
        mixture: The data module.
        measured: Names of the domains, or of the basis distributions that were measured in their place.
        alignments: The latest alignments.
        signal_to_noise: Signal-to-noise ratio of each averaged alignment; ``None`` before there are any.
    """
    if alignments is None:
        return {}
    of_domains = tuple(measured) == tuple(mixture.domain_names)
    shown = _shown(mixture.weights) if of_domains else range(min(len(measured), _SHOWN_DOMAINS))
    if not alignments.targets:
        return {f"dga/loss/{measured[i]}": alignments.losses[i].item() for i in shown}
    metrics = {f"dga/alignment/{measured[i]}": alignments.values[i].item() for i in shown}
    if signal_to_noise is not None:
        metrics |= {f"dga/signal_to_noise/{measured[i]}": signal_to_noise[i].item() for i in shown}
    return metrics | target_metrics(_losses(alignments)) | {"dga/target_norm": alignments.target_norm}


def target_metrics(losses: dict[str, float]) -> dict[str, float]:
    """Metrics of the target losses by name of the target."""
    each = {f"{TARGET_LOSS}/{name}": loss for name, loss in losses.items()} if len(losses) > 1 else {}
    return {TARGET_LOSS: sum(losses.values()) / len(losses), **each}


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


def _losses(alignments: Alignments) -> dict[str, float]:
    return dict(zip(alignments.targets, alignments.target_losses.tolist(), strict=True))


def _shown(weights: Tensor) -> list[int]:
    found: list[int] = weights.topk(min(len(weights), _SHOWN_DOMAINS)).indices.sort().values.tolist()
    return found
