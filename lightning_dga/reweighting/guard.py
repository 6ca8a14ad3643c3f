"""A bound on the loss of one target, for example against forgetting of general text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_dga.core.alignments import Alignments
from lightning_dga.core.data_budget import DataBudget
from lightning_dga.reweighting.mirror import check_step_size
from lightning_dga.reweighting.rule import Rule, RuleState
from lightning_dga.reweighting.traits import Distributions, Traits, measured_over, traits


@dataclass(frozen=True)
class Guarded:
    """Applies any rule subject to an upper bound on the loss of one target, the guarded one.

    The rule sees the alignments with the other targets, plus a multiplier λ times those with the guarded one, each in
    units of its target's squared gradient norm. λ rises while the guarded loss is above ``most`` and falls back to zero
    while it is below: dual ascent on the Lagrangian of minimising the target loss subject to the bound.

    Args:
        rule: The rule.
        target: Name of the guarded target, one of ``MixtureDataModule(target={...})``.
        most: Upper bound on the guarded target's loss.
        step_size: Step size of λ per update, for a violation of the bound in units of ``most``.
        largest: Maximum of λ.
    """

    rule: Rule
    target: str
    most: float
    step_size: float = 10.0
    largest: float = 10.0

    def __post_init__(self) -> None:
        check_step_size(self.most, "most")
        check_step_size(self.step_size)

    @property
    def traits(self) -> Traits:
        """The wrapped rule's traits, except that alignments with the guarded target are always needed."""
        return replace(traits(self.rule), losses_only=False)

    def measured_over(self, domain_names: Sequence[str]) -> Distributions | None:
        """The distributions that the wrapped rule is measured over."""
        return measured_over(self.rule, domain_names)

    def start(self, domain_names: Sequence[str], weights: Tensor, exposure: DataBudget) -> tuple[Tensor, RuleState]:
        """See :class:`~lightning_dga.reweighting.rule.Rule`."""
        weights, state = self.rule.start(domain_names, weights, exposure)
        return weights, {**state, "multiplier": torch.zeros(1, dtype=torch.float64)}

    def update(
        self, weights: Tensor, alignments: Alignments, state: RuleState, exposure: DataBudget
    ) -> tuple[Tensor, RuleState]:
        """See :class:`~lightning_dga.reweighting.rule.Rule`.

        Raises:
            ValueError: If there is no target of that name, or no other target.
        """
        guarded = self._index(alignments)
        excess = (alignments.target_losses[guarded] / self.most - 1).nan_to_num(0.0)
        multiplier = (state["multiplier"] + self.step_size * excess).clamp(0, self.largest)
        squares = alignments.target_norms.square().nan_to_num(0.0, 0.0, 0.0)
        # alignments with a target whose gradient is zero carry no information
        relative = torch.where(squares > 0, alignments.by_target / squares, 0.0)
        others = [index for index in range(len(alignments.targets)) if index != guarded]
        gains = relative[:, others].mean(1) + multiplier * relative[:, guarded]
        unit = squares[others].mean()
        seen = replace(
            alignments,
            values=gains * unit,
            target_norm=unit.sqrt().item(),
            target_loss=alignments.target_losses[others].mean().item(),
            by_target=alignments.by_target[:, others],
            targets=tuple(alignments.targets[index] for index in others),
            target_losses=alignments.target_losses[others],
            target_norms=alignments.target_norms[others],
            # that of a sum over targets depends on their covariance, which is not measured
            sample_variances=torch.full_like(gains, torch.nan),
        )
        inner = {name: value for name, value in state.items() if name != "multiplier"}
        weights, inner = self.rule.update(weights, seen, inner, exposure)
        return weights, {**inner, "multiplier": multiplier}

    def _index(self, alignments: Alignments) -> int:
        if self.target not in alignments.targets or len(alignments.targets) < 2:
            raise ValueError(
                f"`target` {self.target!r} is to be guarded beside another target, but the targets are "
                f"{', '.join(map(repr, alignments.targets))}. Give `MixtureDataModule(target={{...}})` both by name."
            )
        return alignments.targets.index(self.target)
