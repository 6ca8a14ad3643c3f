"""Rules that decide once: weights as they are, uniform weights, and importance sampling."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lightning_dga.alignments import Alignments
from lightning_dga.reweighting.rule import RuleState
from lightning_dga.weights import as_weights


@dataclass(frozen=True)
class Static:
    """Keeps the weights that the data module has; alignments are measured and logged only."""

    def start(self, domain_names: Sequence[str], weights: Tensor) -> tuple[Tensor, RuleState]:
        """See :class:`~lightning_dga.reweighting.rule.Rule`."""
        return weights, {}

    def update(self, weights: Tensor, alignments: Alignments, state: RuleState) -> tuple[Tensor, RuleState]:
        """See :class:`~lightning_dga.reweighting.rule.Rule`."""
        return weights, state


@dataclass(frozen=True)
class Uniform(Static):
    """Gives every domain the same weight."""

    def start(self, domain_names: Sequence[str], weights: Tensor) -> tuple[Tensor, RuleState]:
        """See :class:`~lightning_dga.reweighting.rule.Rule`."""
        return as_weights(None, domain_names), {}


@dataclass(frozen=True)
class Importance(Static):
    """Importance sampling: draws each domain as often as the target set falls into it (CRISP, arXiv 2410.03735).

    Args:
        histogram: How many samples of the target set belong to each domain, as a mapping that names every domain or as
            k numbers. They need not sum to one.

    Raises:
        ValueError: From :meth:`start`, if the histogram does not fit the domains.
    """

    histogram: Mapping[str, float] | Sequence[float] | Any

    def start(self, domain_names: Sequence[str], weights: Tensor) -> tuple[Tensor, RuleState]:
        """See :class:`~lightning_dga.reweighting.rule.Rule`."""
        return as_weights(self.histogram, domain_names, argument="histogram"), {}
