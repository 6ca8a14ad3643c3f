"""How far the loop of measuring, reweighting and setting weights has come."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lightning_dga.core.alignments import Alignments
from lightning_dga.engine.alignment_averages import AlignmentAverages
from lightning_dga.reweighting import RuleState


@dataclass(frozen=True)
class Progress:
    """The checkpointed state, replaced as a whole at the end of an update, so that no reader sees a partial one."""

    updates: int = 0
    step: int = 0  # training steps done at the last update
    weights: Tensor | None = None
    weights_version: int = 0
    rule: RuleState = field(default_factory=dict)
    alignments: Alignments | None = None
    averages: AlignmentAverages = field(default_factory=AlignmentAverages)
    estimator: str | None = None
    estimator_state: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    schedule: dict[str, Any] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """The fields as tensors, numbers, strings and containers of these."""
        return {
            **vars(self),
            "alignments": self.alignments.state_dict() if self.alignments is not None else None,
            "averages": self.averages.state_dict(),
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> "Progress":
        """The inverse of :meth:`state_dict`; fields that earlier versions did not have get their defaults."""
        alignments = state["alignments"]
        return cls(
            **{
                **state,
                "alignments": Alignments.from_state_dict(alignments) if alignments is not None else None,
                "averages": AlignmentAverages.from_state_dict(state.get("averages", {})),
            }
        )
