"""Exponential moving averages of values that are not all measured every time, with their standard errors."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MovingMoments:
    """Exponential moving first and second moments of k values; all fields are ``[k]`` float64.

    Attributes:
        mean: Weighted sum of the measured values; divided by ``weight`` it is the average.
        square: Weighted sum of their squares.
        weight: Sum of the weights, which tends to 1.
        weight_square: Sum of the squared weights; divided by ``weight`` squared it is the fraction of one measurement's
            variance that is left in the average.
    """

    mean: Tensor
    square: Tensor
    weight: Tensor
    weight_square: Tensor

    @classmethod
    def zeros(cls, size: int) -> "MovingMoments":
        """The moments before the first measurement."""
        return cls(*(torch.zeros(size, dtype=torch.float64) for _ in range(4)))

    def bounded(self, largest: float) -> "MovingMoments":
        """The moments with averages clipped to a largest absolute value.

        Args:
            largest: Largest absolute value.
        """
        most = largest * self.weight
        return MovingMoments(
            mean=self.mean.clamp(-most, most),
            square=self.square.clamp(max=largest * most),
            weight=self.weight,
            weight_square=self.weight_square,
        )

    def updated(self, values: Tensor, measured: Tensor, share: float) -> "MovingMoments":
        """The moments after another measurement.

        Args:
            values: Measured values, ``[k]``.
            measured: Which values were measured, ``[k]`` bool; the moments of the others do not change.
            share: Weight of the newest value.
        """
        values = torch.where(measured, values, 0.0)
        new = torch.where(measured, share, 0.0).double()
        return MovingMoments(
            mean=(1 - new) * self.mean + new * values,
            square=(1 - new) * self.square + new * values.square(),
            weight=(1 - new) * self.weight + new,
            weight_square=(1 - new).square() * self.weight_square + new.square(),
        )

    @property
    def average(self) -> Tensor:
        """The averages; NaN where nothing was measured."""
        return self.mean / self.weight

    @property
    def standard_error(self) -> Tensor:
        """Standard errors of the averages; NaN before the second measurement."""
        variance = (self.square / self.weight - self.average.square()).clamp(min=0)
        left = self.weight_square / self.weight.square()
        # bias correction: a weighted variance around the weighted mean is too small by this factor
        return torch.where(left < 1, (variance / (1 - left) * left).sqrt(), torch.nan)
