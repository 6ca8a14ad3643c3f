"""Alignments averaged over updates, and how far they stand out of their noise."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lightning_dga.alignments import Alignments
from lightning_dga.moments import Moments


@dataclass(frozen=True)
class AlignmentAverages:
    """Exponential moving moments of each domain's alignment in units of the target's squared gradient norm.

    The units free the average of the gradients' own growth and decay. An update in which a domain was not measured
    leaves its moments as they are.

    Attributes:
        moments: Of the relative alignments; ``None`` before the first update.
    """

    moments: Moments | None = None

    def updated(self, alignments: Alignments, ema: float) -> "AlignmentAverages":
        """With a measurement taken in.

        Args:
            alignments: The measurement.
            ema: Its share.
        """
        unit = max(alignments.target_norm**2, torch.finfo(torch.float64).tiny)
        fresh = alignments.measured & (alignments.ages == 0)
        earlier = self.moments or Moments.of_none(len(alignments.values))
        return AlignmentAverages(earlier.updated(alignments.values / unit, fresh, ema))

    def smoothed(self, alignments: Alignments) -> Alignments:
        """A measurement with the averages, in its own units, for values."""
        assert self.moments is not None
        values = self.moments.average * alignments.target_norm**2
        return replace(alignments, values=torch.where(alignments.measured, values, alignments.values))

    @property
    def signal_to_noise(self) -> Tensor | None:
        """Size of each domain's average over its standard error, ``[k]``; NaN before the second measurement."""
        return None if self.moments is None else self.moments.average.abs() / self.moments.standard_error

    def state_dict(self) -> dict[str, Any]:
        """The moments."""
        return {} if self.moments is None else dict(vars(self.moments))

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "AlignmentAverages":
        """The inverse of :meth:`state_dict`."""
        return cls(Moments(**state) if state and state["mean"] is not None else None)
