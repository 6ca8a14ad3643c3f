"""Reweighting for several targets, whose weights move too."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_dga.core.alignments import Alignments
from lightning_dga.core.data_budget import DataBudget
from lightning_dga.reweighting.mirror import averaged, check_step_size, stepped
from lightning_dga.reweighting.registry import register_rule
from lightning_dga.reweighting.rule import RuleState


@register_rule("grape")
@dataclass(frozen=True)
class Grape:
    """Group robust multi-target adaptation (GRAPE, arXiv 2505.20380): domain weights and target weights in turn.

    It raises the targets that the mixture improves least, and the domains that most help the targets so weighted. With
    ``b_in = a_in / L_n``, the alignment of domain *i* with the gradient of ``log L_n``:

    - ``z_n`` is proportional to ``z_n exp(-target_step_size sum_i w_i b_in)``,
    - ``w_i`` is proportional to ``w_i exp(step_size sum_n z_n b_in)``, with the new z.

    With one target it is gradient alignment with the logarithm of the target loss.

    Args:
        step_size: Step size of the domain weights; 1.5 in the authors' code.
        target_step_size: Step size of the target weights; 10 in the authors' code.
        target_smoothing: Weight of the uniform distribution in the target weights; 0.001 in the authors' code.
    """

    step_size: float = 1.5
    target_step_size: float = 10.0
    target_smoothing: float = 1e-3

    def __post_init__(self) -> None:
        check_step_size(self.step_size)
        check_step_size(self.target_step_size, "target_step_size")
        if not 0 <= self.target_smoothing < 1:
            raise ValueError(f"`target_smoothing` must be in [0, 1), got {self.target_smoothing}.")

    def start(self, domain_names: Sequence[str], weights: Tensor, exposure: DataBudget) -> tuple[Tensor, RuleState]:
        """See :class:`~lightning_dga.reweighting.rule.Rule`."""
        # the number of targets is not known before the first alignments
        return weights, {"targets": weights.new_empty(0)}

    def update(
        self, weights: Tensor, alignments: Alignments, state: RuleState, exposure: DataBudget
    ) -> tuple[Tensor, RuleState]:
        """See :class:`~lightning_dga.reweighting.rule.Rule`. A domain that was not measured keeps its logit."""
        by_target, losses = alignments.by_target, alignments.target_losses
        uniform = torch.full_like(losses, 1 / len(losses))
        targets = state["targets"] if len(state["targets"]) else uniform
        tiny = torch.finfo(torch.float64).tiny
        gains = torch.where(alignments.measured[:, None], by_target, 0.0) / losses.clamp(min=tiny)
        targets = stepped(targets, -(weights @ gains), self.target_step_size)
        targets = averaged(targets, uniform, self.target_smoothing)
        return stepped(weights, gains @ targets, self.step_size), {"targets": targets}
