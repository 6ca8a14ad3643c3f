"""What every reweighting rule takes and gives."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from lightning_dga.core.alignments import Alignments
from lightning_dga.core.data_budget import DataBudget

RuleState = dict[str, Tensor]


class Rule(Protocol):
    """Turns alignments into domain weights: pure functions of small tensors.

    A rule holds its settings and nothing else. What it remembers from update to update is handed in and out, as a dict
    of tensors that a checkpoint can hold.
    """

    def start(self, domain_names: Sequence[str], weights: Tensor, exposure: DataBudget) -> tuple[Tensor, RuleState]:
        """The weights and state before the first update.

        Args:
            domain_names: The k names.
            weights: The weights that the data module starts with, ``[k]`` float64 on the simplex. A domain of weight
                zero is not to be drawn.
            exposure: What the domains hold, and how long the run will be.

        Returns:
            Weights to begin with, ``[k]`` float64 on the simplex, and the first state.
        """
        ...

    def update(
        self, weights: Tensor, alignments: Alignments, state: RuleState, exposure: DataBudget
    ) -> tuple[Tensor, RuleState]:
        """One update.

        Args:
            weights: The weights in force, ``[k]`` float64 on the simplex.
            alignments: What was measured.
            state: What the last update, or :meth:`start`, returned. Not changed.
            exposure: What has been drawn of each domain so far.

        Returns:
            New weights, ``[k]`` float64 on the simplex, and the new state.
        """
        ...
