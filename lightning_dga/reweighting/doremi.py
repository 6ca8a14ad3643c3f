"""Reweighting by excess loss over a reference model, as in DoReMi."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_dga.core.alignments import Alignments
from lightning_dga.core.data_budget import DataBudget
from lightning_dga.core.weights import in_order
from lightning_dga.reweighting.mirror import averaged, check_step_size, stepped
from lightning_dga.reweighting.odm import domain_losses
from lightning_dga.reweighting.registry import register_rule
from lightning_dga.reweighting.rule import RuleState
from lightning_dga.reweighting.traits import Traits


@register_rule("doremi")
@dataclass(frozen=True)
class DoReMi:
    """Raises the domains with the largest excess loss over a reference model (group DRO, arXiv 2305.10429).

    With the excess ``e_i = max(L_i - reference_i, 0)``, ``w_i`` is proportional to ``w_i exp(step_size e_i)``, mixed
    with uniform weights by ``smoothing``. It needs no target. DoReMi itself does this on a proxy model, clips the
    excess per token, and then trains on the averaged weights; here the mixture of the model itself is reweighted, and
    the excess is that of a domain's mean loss. Without a reference it is plain group DRO (arXiv 1911.08731): the
    domains with the largest losses are raised, whether or not those losses can be reduced.

    Args:
        reference: Loss of the reference model on each domain, as a mapping that names every domain or as k numbers; 0
            if not given.
        step_size: The paper's η.
        smoothing: The paper's c, the weight of the uniform distribution in the result.

    Raises:
        ValueError: If a setting is out of range; from :meth:`start`, if the reference does not fit the domains.
    """

    traits: ClassVar[Traits] = Traits(losses_only=True)
    reference: Mapping[str, float] | Sequence[float] | Any = None
    step_size: float = 1.0
    smoothing: float = 1e-3

    def __post_init__(self) -> None:
        check_step_size(self.step_size)
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"`smoothing` must be in [0, 1), got {self.smoothing}.")

    def start(self, domain_names: Sequence[str], weights: Tensor, exposure: DataBudget) -> tuple[Tensor, RuleState]:
        """See :class:`~lightning_dga.reweighting.rule.Rule`."""
        given = self.reference is not None
        reference = in_order(self.reference, domain_names, argument="reference") if given else torch.zeros_like(weights)
        return weights, {"reference": reference, "allowed": weights > 0, "unsmoothed": weights}

    def update(
        self, weights: Tensor, alignments: Alignments, state: RuleState, exposure: DataBudget
    ) -> tuple[Tensor, RuleState]:
        """See :class:`~lightning_dga.reweighting.rule.Rule`. A domain that was not measured has an excess of 0.

        Raises:
            ValueError: If the estimator does not provide the domains' losses.
        """
        excess = (domain_losses(alignments, "doremi") - state["reference"]).clamp(min=0)
        new = stepped(state["unsmoothed"], excess, self.step_size)
        uniform = state["allowed"].double() / state["allowed"].sum()
        smoothed = averaged(new, uniform, self.smoothing)
        return smoothed, {**state, "unsmoothed": smoothed}
