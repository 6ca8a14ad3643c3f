"""Online data mixing by domain losses: a bandit algorithm that needs no target."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lightning_dga.core.alignments import Alignments
from lightning_dga.core.data_budget import DataBudget
from lightning_dga.reweighting.mirror import check_ema
from lightning_dga.reweighting.registry import register_rule
from lightning_dga.reweighting.rule import RuleState
from lightning_dga.reweighting.traits import Traits


@register_rule("odm")
@dataclass(frozen=True)
class ODM:
    """Online data mixing (arXiv 2312.02406): Exp3 (Auer et al., 2002) with the training loss as the reward.

    A domain's reward is a moving average of its losses; with t updates done and ``e_t = min(1/k, sqrt(ln k / (k t)))``,
    the weights are ``(1 - k e_t) softmax(e_{t-1} R) + e_t``. Exp3 divides a reward by the probability of observing it;
    probes observe all domains, so that is 1 here. A domain that was not measured keeps its reward.

    Args:
        ema: Weight of the newest loss in the average.
        reward_scale: Divisor of the losses; 10 in the authors' code, for nats per token.
    """

    traits: ClassVar[Traits] = Traits(losses_only=True)
    ema: float = 0.1
    reward_scale: float = 10.0

    def __post_init__(self) -> None:
        check_ema(self.ema)
        if not self.reward_scale > 0:
            raise ValueError(f"`reward_scale` must be positive, got {self.reward_scale}.")

    def start(self, domain_names: Sequence[str], weights: Tensor, exposure: DataBudget) -> tuple[Tensor, RuleState]:
        """See :class:`~lightning_dga.reweighting.rule.Rule`."""
        zeros = torch.zeros_like(weights)
        return weights, {"allowed": weights > 0, "rewards": zeros, "updates": zeros[:1]}

    def update(
        self, weights: Tensor, alignments: Alignments, state: RuleState, exposure: DataBudget
    ) -> tuple[Tensor, RuleState]:
        """See :class:`~lightning_dga.reweighting.rule.Rule`.

        Raises:
            ValueError: If the estimator does not provide the domains' losses.
        """
        losses = domain_losses(alignments, "odm")
        seen = losses.isfinite()
        rewards = (1 - self.ema) * state["rewards"] + self.ema * losses.nan_to_num(0.0) / self.reward_scale
        rewards = torch.where(seen, rewards, state["rewards"])
        allowed, updates = state["allowed"], state["updates"] + 1
        count = int(allowed.sum())
        before, now = (_exploration(count, step) for step in (updates.item() - 1, updates.item()))
        chosen = torch.softmax(torch.where(allowed, before * rewards, -torch.inf), 0)
        new = (1 - count * now) * chosen + now * allowed
        return new / new.sum(), {"allowed": allowed, "rewards": rewards, "updates": updates}


def domain_losses(alignments: Alignments, rule: str) -> Tensor:
    """The domains' losses, ``[k]``; NaN for a domain that was not measured.

    Raises:
        ValueError: If no domain was measured.
    """
    if alignments.measured.any() and not alignments.losses.isfinite().any():
        raise ValueError(
            f"`rule` {rule!r} needs the loss of each domain, which this estimator does not see; use "
            "`estimator='backward'`, `'batched'` or `'finite_difference'`."
        )
    return torch.where(alignments.measured, alignments.losses, torch.nan)


def _exploration(domains: int, updates: float) -> float:
    if domains == 1 or updates < 1:
        return 1 / domains
    return min(1 / domains, math.sqrt(math.log(domains) / (domains * updates)))
