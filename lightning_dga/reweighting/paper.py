"""Dynamic gradient alignment as published."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lightning_dga.core.alignments import Alignments
from lightning_dga.core.data_budget import DataBudget
from lightning_dga.reweighting.mirror import averaged, check_ema, check_step_size, stepped
from lightning_dga.reweighting.registry import register_rule
from lightning_dga.reweighting.rule import RuleState
from lightning_dga.reweighting.traits import Traits

_READINGS = ("unsmoothed", "averaged")


@register_rule("dga_paper")
@dataclass(frozen=True)
class PaperDGA:
    """Mirror descent on the raw inner products, then an exponential moving average of the weights (arXiv 2410.02498).

    ``p_i`` is proportional to ``p_i exp(step_size a_i)``, and the weights are ``(1 - ema) weights + ema p``. The sign
    follows from the derivation: it raises the domains whose gradients lower the target loss. The scale of raw inner
    products does not carry over from one model to another, and one exploding gradient can lock the mixture;
    :class:`DGA` divides by the target gradient's norm and clips.

    Args:
        step_size: η of the mirror step.
        ema: β, the weight of the new value in the moving average; 1 switches the average off.
        steps_from: What the next mirror step starts from, which the paper leaves open: ``"unsmoothed"``, the last p, or
            ``"averaged"``, the weights in force.
    """

    step_size: float = 1.0
    ema: float = 0.1
    steps_from: str = "unsmoothed"

    def __post_init__(self) -> None:
        check_step_size(self.step_size)
        check_ema(self.ema)
        if self.steps_from not in _READINGS:
            raise ValueError(f"`steps_from` must be one of {', '.join(_READINGS)}, got {self.steps_from!r}.")

    @property
    def traits(self) -> Traits:
        """The average follows the mirror steps after about ``1 / ema`` updates."""
        return Traits(lag=1 / self.ema)

    def start(self, domain_names: Sequence[str], weights: Tensor, exposure: DataBudget) -> tuple[Tensor, RuleState]:
        """See :class:`~lightning_dga.reweighting.rule.Rule`."""
        return weights, {"unsmoothed": weights}

    def update(
        self, weights: Tensor, alignments: Alignments, state: RuleState, exposure: DataBudget
    ) -> tuple[Tensor, RuleState]:
        """See :class:`~lightning_dga.reweighting.rule.Rule`. A domain that was not measured keeps its logit."""
        origin = state["unsmoothed"] if self.steps_from == "unsmoothed" else weights
        new = stepped(origin, alignments.values, self.step_size)
        return averaged(weights, new, self.ema), {"unsmoothed": new}
