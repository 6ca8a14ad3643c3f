"""The protocol of a reweighting rule."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from lightning_dga.core.alignments import Alignments
from lightning_dga.core.data_budget import DataBudget

RuleState = dict[str, Tensor]


class Rule(Protocol):
    """Turns alignments into domain weights by pure functions of small tensors.

    A rule object holds only its settings. Its state is passed in and returned at every update, as a dict of tensors
    that is stored in checkpoints.
    """

    def start(self, domain_names: Sequence[str], weights: Tensor, exposure: DataBudget) -> tuple[Tensor, RuleState]:
        """The weights and state before the first update.

        Args:
            domain_names: The k names.
            weights: The data module's initial weights, ``[k]`` float64 on the simplex. A domain of weight zero must not
                be drawn.
            exposure: The data budget: the sizes of the domains and the length of the run.

        Returns:
            Initial weights, ``[k]`` float64 on the simplex, and the initial state.
        """
        ...

    def update(
        self, weights: Tensor, alignments: Alignments, state: RuleState, exposure: DataBudget
    ) -> tuple[Tensor, RuleState]:
        """One update.

        Args:
            weights: The weights in force, ``[k]`` float64 on the simplex.
            alignments: The measurement.
            state: The state that the last update, or :meth:`start`, returned; must not be modified.
            exposure: The data budget, with the samples drawn from each domain so far.

        Returns:
            New weights, ``[k]`` float64 on the simplex, and the new state.
        """
        ...
