"""Distribution reweighting: reweights a few basis distributions over the domains in place of the domains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_dga.core.alignments import Alignments
from lightning_dga.core.basis import Basis
from lightning_dga.core.data_budget import DataBudget
from lightning_dga.core.weights import WeightsLike, as_weights
from lightning_dga.reweighting.rule import Rule, RuleState
from lightning_dga.reweighting.traits import Distributions, Traits, measured_over, traits

_INNER = "rule/"


@dataclass(frozen=True)
class DistributionReweighting:
    """Applies any rule to N basis distributions in place of the k domains (arXiv 2410.02498, section 3.2).

    The domain weights are ``P w``: column *j* of P is a distribution over the domains, and w, which the rule moves,
    lies on the N-simplex. The alignment of a basis distribution is measured on samples drawn from it, so an update
    costs N + 1 gradients for any k. The histograms of N reference sets over the domains can serve as a basis.

    Args:
        rule: The rule that moves w. It sees each basis distribution as a domain.
        basis: The distributions by name, each as a mapping that names every domain or as k numbers; or the ``.npy``
            file that ``dga-domains basis`` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there is no distribution; from :meth:`mixtures`, if one does not fit the domains.
    """

    rule: Rule
    basis: Mapping[str, WeightsLike | Any] | str | Path

    def __post_init__(self) -> None:
        if not self._columns:
            raise ValueError("`basis` is empty; name at least one distribution over the domains.")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the N basis distributions, in the order of the alignments."""
        return tuple(self._columns)

    def mixtures(self, domain_names: Sequence[str]) -> Tensor:
        """The basis distributions, ``[N, k]`` float64, rows on the simplex: P transposed."""
        rows = (as_weights(one, domain_names, argument=f"basis[{name!r}]") for name, one in self._columns.items())
        return torch.stack(list(rows))

    @property
    def traits(self) -> Traits:
        """Those of the rule."""
        return traits(self.rule)

    def measured_over(self, domain_names: Sequence[str]) -> Distributions:
        """The basis distributions; if the wrapped rule itself reweights distributions over these, the latter."""
        mixtures, inner = self.mixtures(domain_names), measured_over(self.rule, self.names)
        return (
            Distributions(self.names, mixtures) if inner is None else replace(inner, mixtures=inner.mixtures @ mixtures)
        )

    @cached_property
    def _columns(self) -> Mapping[str, WeightsLike | Any]:
        return Basis.load(Path(self.basis)).columns if isinstance(self.basis, str | Path) else self.basis

    def start(self, domain_names: Sequence[str], weights: Tensor, exposure: DataBudget) -> tuple[Tensor, RuleState]:
        """See :class:`~lightning_dga.reweighting.rule.Rule`. Ignores the data module's weights; w starts uniform."""
        mixtures = self.mixtures(domain_names)
        w, inner = self.rule.start(self.names, as_weights(None, self.names), exposure.of_mixtures(mixtures))
        return _on_domains(w, mixtures), _outer(w, mixtures, inner)

    def update(
        self, weights: Tensor, alignments: Alignments, state: RuleState, exposure: DataBudget
    ) -> tuple[Tensor, RuleState]:
        """See :class:`~lightning_dga.reweighting.rule.Rule`; takes the alignments of the N distributions."""
        mixtures = state["mixtures"]
        inner = {name.removeprefix(_INNER): value for name, value in state.items() if name.startswith(_INNER)}
        w, inner = self.rule.update(state["w"], alignments, inner, exposure.of_mixtures(mixtures))
        return _on_domains(w, mixtures), _outer(w, mixtures, inner)


def _on_domains(w: Tensor, mixtures: Tensor) -> Tensor:
    weights = w @ mixtures
    return weights / weights.sum()


def _outer(w: Tensor, mixtures: Tensor, inner: RuleState) -> RuleState:
    return {"w": w, "mixtures": mixtures, **{f"{_INNER}{name}": value for name, value in inner.items()}}
