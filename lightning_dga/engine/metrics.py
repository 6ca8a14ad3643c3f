"""The metrics of a mixture and of its alignments, by name."""

from collections.abc import Sequence

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


def _losses(alignments: Alignments) -> dict[str, float]:
    return dict(zip(alignments.targets, alignments.target_losses.tolist(), strict=True))


def _shown(weights: Tensor) -> list[int]:
    found: list[int] = weights.topk(min(len(weights), _SHOWN_DOMAINS)).indices.sort().values.tolist()
    return found
