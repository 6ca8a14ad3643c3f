"""Rules that set the weights once: the data module's weights, uniform weights, and importance sampling."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from lightning_dga.core.alignments import Alignments
from lightning_dga.core.data_budget import DataBudget
from lightning_dga.core.weights import as_weights
from lightning_dga.reweighting.registry import register_rule
from lightning_dga.reweighting.repetition import EPOCHS, check_epochs, planned_samples
from lightning_dga.reweighting.rule import RuleState
from lightning_dga.reweighting.traits import Traits


@register_rule("static")
@dataclass(frozen=True)
class Static:
    """Keeps the data module's weights; alignments are only measured and logged."""

    traits: ClassVar[Traits] = Traits(moves=False)

    def start(self, domain_names: Sequence[str], weights: Tensor, exposure: DataBudget) -> tuple[Tensor, RuleState]:
        """See :class:`~lightning_dga.reweighting.rule.Rule`."""
        return weights, {}

    def update(
        self, weights: Tensor, alignments: Alignments, state: RuleState, exposure: DataBudget
    ) -> tuple[Tensor, RuleState]:
        """See :class:`~lightning_dga.reweighting.rule.Rule`."""
        return weights, state


@register_rule("uniform")
@dataclass(frozen=True)
class Uniform(Static):
    """Gives every domain the same weight."""

    def start(self, domain_names: Sequence[str], weights: Tensor, exposure: DataBudget) -> tuple[Tensor, RuleState]:
        """See :class:`~lightning_dga.reweighting.rule.Rule`."""
        return as_weights(None, domain_names), {}


@register_rule("importance")
@dataclass(frozen=True)
class Importance(Static):
    """Importance sampling: weights each domain by the fraction of the target set in it (CRISP, arXiv 2410.03735).

    Args:
        prior: The weights, such as the number of target samples that belong to each domain, as a mapping that names
            every domain or as k numbers. They need not sum to one.

    Raises:
        ValueError: From :meth:`start`, if the prior is missing or does not fit the domains.
    """

    needs_prior: ClassVar[bool] = True

    prior: Mapping[str, float] | Sequence[float] | Any = None

    def start(self, domain_names: Sequence[str], weights: Tensor, exposure: DataBudget) -> tuple[Tensor, RuleState]:
        """See :class:`~lightning_dga.reweighting.rule.Rule`."""
        return _shares(self.prior, domain_names), {}


@register_rule("water_filling")
@dataclass(frozen=True)
class WaterFilling(Static):
    """Importance sampling that limits repetition by water filling.

    The run is planned as a whole by :func:`~lightning_dga.reweighting.repetition.planned_samples`: what the prior
    would repeat more than ``epochs`` times is distributed over all domains as equally many passes.

    Args:
        prior: As for :class:`Importance`.
        epochs: Maximum passes over a domain beyond those over any other.

    Raises:
        ValueError: If ``epochs`` is not positive; from :meth:`start`, if the prior is missing or does not fit
            the domains.
    """

    needs_prior: ClassVar[bool] = True

    prior: Mapping[str, float] | Sequence[float] | Any = None
    epochs: float = EPOCHS

    def __post_init__(self) -> None:
        check_epochs(self.epochs)

    def start(self, domain_names: Sequence[str], weights: Tensor, exposure: DataBudget) -> tuple[Tensor, RuleState]:
        """See :class:`~lightning_dga.reweighting.rule.Rule`."""
        shares = _shares(self.prior, domain_names)
        plan = planned_samples(shares, exposure, self.epochs, weights > 0)
        return plan / plan.sum(), {}


def _shares(prior: Any, domain_names: Sequence[str]) -> Tensor:
    if prior is None:
        raise ValueError(
            "`prior` is missing: importance sampling needs to know how the target spreads over the domains. Give "
            "`prior`, one number for each domain; `dga-domains histogram DIR TARGET` counts it."
        )
    return as_weights(prior, domain_names, argument="prior")
