"""Dynamic gradient alignment: the published rule and the default form of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_dga.alignments import Alignments
from lightning_dga.reweighting.rule import RuleState


@dataclass(frozen=True)
class PaperDGA:
    """Mirror descent on the raw inner products, then an exponential moving average of the weights (arXiv 2410.02498).

    ``p_i`` is proportional to ``p_i exp(step_size a_i)``, and the weights are ``(1 - ema) weights + ema p``. The sign
    is the one that the derivation needs: it raises the domains whose gradients lower the target loss. Raw inner
    products have no scale that carries over from one model to the next, and one exploding gradient can lock the
    mixture; :class:`DGA` is safer.

    Args:
        step_size: η of the mirror step.
        ema: β, the share of the new weights in the average; 1 switches the average off.
    """

    step_size: float = 1.0
    ema: float = 0.1

    def __post_init__(self) -> None:
        _check(self.step_size, self.ema)

    def start(self, domain_names: Sequence[str], weights: Tensor) -> tuple[Tensor, RuleState]:
        """See :class:`~lightning_dga.reweighting.rule.Rule`."""
        return weights, {"logits": weights.log()}

    def update(self, weights: Tensor, alignments: Alignments, state: RuleState) -> tuple[Tensor, RuleState]:
        """See :class:`~lightning_dga.reweighting.rule.Rule`. A domain that was not measured keeps its logit."""
        logits = state["logits"] + self.step_size * _or_zero(alignments.values, alignments.measured)
        logits = torch.log_softmax(logits, 0)
        return _averaged(weights, logits.exp(), self.ema), {"logits": logits}


@dataclass(frozen=True)
class DGA:
    """Dynamic gradient alignment in a form without a scale, which forgets: the default rule.

    Three changes to the published rule (:class:`PaperDGA`), each for a failure that was measured:

    - Alignments are divided by the squared norm of the target gradient, the alignment of the target set with itself.
      What is left says how much a step on the domain helps the target, next to a step on the target set, and does not
      change when losses are rescaled.
    - That quotient is cut to [-1, 1]: no domain is better than the target set, and one exploding probe cannot lock the
      mixture.
    - Logits decay toward those of the starting weights, so that a domain comes down again once it is memorised and its
      alignment fades; accumulated logits saturate and stay.

    Args:
        step_size: η of the mirror step. With a constant quotient q, a domain's log-weight settles at
            ``step_size * q / decay`` above the start.
        ema: β, the share of the new weights in the moving average; 1 switches the average off.
        decay: Share of the logits that an update forgets; 0 forgets nothing.
    """

    step_size: float = 0.5
    ema: float = 0.3
    decay: float = 0.1

    def __post_init__(self) -> None:
        _check(self.step_size, self.ema)
        if not 0 <= self.decay < 1:
            raise ValueError(f"`decay` must be in [0, 1), got {self.decay}.")

    def start(self, domain_names: Sequence[str], weights: Tensor) -> tuple[Tensor, RuleState]:
        """See :class:`~lightning_dga.reweighting.rule.Rule`."""
        return weights, {"prior": weights.log(), "logits": torch.zeros_like(weights)}

    def update(self, weights: Tensor, alignments: Alignments, state: RuleState) -> tuple[Tensor, RuleState]:
        """See :class:`~lightning_dga.reweighting.rule.Rule`. A domain that was not measured only decays."""
        squared_norm = max(alignments.target_norm**2, torch.finfo(torch.float64).tiny)
        gain = _or_zero((alignments.values / squared_norm).clamp(-1, 1), alignments.measured)
        logits = (1 - self.decay) * state["logits"] + self.step_size * gain
        new = torch.softmax(state["prior"] + logits, 0)
        return _averaged(weights, new, self.ema), {"prior": state["prior"], "logits": logits}


def _check(step_size: float, ema: float) -> None:
    if not (math.isfinite(step_size) and step_size > 0):
        raise ValueError(f"`step_size` must be positive, got {step_size}.")
    if not 0 < ema <= 1:
        raise ValueError(f"`ema` must be in (0, 1], got {ema}; 1 switches the average off.")


def _or_zero(values: Tensor, measured: Tensor) -> Tensor:
    return torch.where(measured, values, torch.zeros_like(values))


def _averaged(old: Tensor, new: Tensor, ema: float) -> Tensor:
    mean = (1 - ema) * old + ema * new
    return mean / mean.sum()
