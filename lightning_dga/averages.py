"""Alignments averaged over updates, and how far they stand out of their noise."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lightning_dga.alignments import Alignments


@dataclass(frozen=True)
class AlignmentAverages:
    """Exponential moving moments of each domain's alignment in units of the target's squared gradient norm.

    The units free the average of the gradients' own growth and decay. An update in which a domain was not measured
    leaves its moments as they are.

    Attributes:
        mean: Weighted sum of the relative alignments, ``[k]`` float64; divide by ``weight``.
        square: The same of their squares.
        weight: Sum of the weights, ``[k]``, which tends to 1.
        weight_square: Sum of the squared weights: its share of ``weight`` squared is the noise that is left of one
            measurement's.
    """

    mean: Tensor | None = None
    square: Tensor | None = None
    weight: Tensor | None = None
    weight_square: Tensor | None = None

    def updated(self, alignments: Alignments, ema: float) -> "AlignmentAverages":
        """With a measurement taken in.

        Args:
            alignments: The measurement.
            ema: Its share.
        """
        zeros = torch.zeros_like(alignments.values)
        mean, square, weight, weight_square = (
            zeros if moment is None else moment for moment in (self.mean, self.square, self.weight, self.weight_square)
        )
        unit = max(alignments.target_norm**2, torch.finfo(torch.float64).tiny)
        fresh = alignments.measured & (alignments.ages == 0)
        relative = torch.where(fresh, alignments.values / unit, zeros)
        share = torch.where(fresh, ema, zeros)
        return replace(
            self,
            mean=(1 - share) * mean + share * relative,
            square=(1 - share) * square + share * relative.square(),
            weight=(1 - share) * weight + share,
            weight_square=(1 - share).square() * weight_square + share.square(),
        )

    def smoothed(self, alignments: Alignments) -> Alignments:
        """A measurement with the averages, in its own units, for values."""
        assert self.mean is not None and self.weight is not None
        values = self.mean / self.weight * alignments.target_norm**2
        return replace(alignments, values=torch.where(alignments.measured, values, alignments.values))

    @property
    def signal_to_noise(self) -> Tensor | None:
        """Size of each domain's average over its standard error, ``[k]``; NaN before the second measurement."""
        if self.mean is None or self.square is None or self.weight is None or self.weight_square is None:
            return None
        mean = self.mean / self.weight
        variance = (self.square / self.weight - mean.square()).clamp(min=0)
        left = self.weight_square / self.weight.square()
        # a weighted variance is too small by the share of its own noise that the mean took out
        error = (variance / (1 - left) * left).sqrt()
        return torch.where(left < 1, mean.abs() / error, torch.nan)

    def state_dict(self) -> dict[str, Any]:
        """The moments."""
        return dict(vars(self))
