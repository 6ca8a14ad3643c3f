"""DoGE, in its online form."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_dga.core.alignments import Alignments
from lightning_dga.core.data_budget import DataBudget
from lightning_dga.core.usual_norm import is_size
from lightning_dga.reweighting.mirror import averaged, check_step_size, stepped
from lightning_dga.reweighting.registry import register_rule
from lightning_dga.reweighting.rule import RuleState

_LARGEST = 5.0


@register_rule("doge")
@dataclass(frozen=True)
class DoGE:
    """Domain reweighting with generalization estimation (arXiv 2310.15393), on the model itself.

    ``w_i`` is proportional to ``w_i exp(step_size s_i)``, where the score ``s_i`` is the alignment in units of a
    gradient norm, clipped to [0, 5] as in the authors' code: a domain's weight falls only because others rise. The
    authors' unit is the mean norm of the domain gradients, which not every estimator provides; here it is the norm of
    the target gradient. DoGE itself reweights a proxy model at every step, and then trains on the averaged weights.

    Args:
        step_size: Learning rate divided by the paper's μ.
        smoothing: Weight of the uniform distribution in the result.
    """

    step_size: float = 0.5
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_step_size(self.step_size)
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"`smoothing` must be in [0, 1), got {self.smoothing}.")

    def start(self, domain_names: Sequence[str], weights: Tensor, exposure: DataBudget) -> tuple[Tensor, RuleState]:
        """See :class:`~lightning_dga.reweighting.rule.Rule`."""
        return weights, {"unsmoothed": weights, "allowed": weights > 0}

    def update(
        self, weights: Tensor, alignments: Alignments, state: RuleState, exposure: DataBudget
    ) -> tuple[Tensor, RuleState]:
        """See :class:`~lightning_dga.reweighting.rule.Rule`. A domain that was not measured scores 0.

        All domains score 0 if the target gradient is zero or not finite.
        """
        norm = alignments.target_norm
        known = alignments.measured & is_size(norm)
        scores = torch.where(known, (alignments.values / (norm or 1.0)).clamp(0, _LARGEST), 0.0)
        new = stepped(state["unsmoothed"], scores, self.step_size)
        uniform = state["allowed"].double() / state["allowed"].sum()
        return averaged(new, uniform, self.smoothing), {**state, "unsmoothed": new}
