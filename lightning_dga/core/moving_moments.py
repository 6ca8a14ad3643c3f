"""Exponential moving averages of numbers that are not all measured every time, and the noise that is left in them."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MovingMoments:
    """First and second moments of k numbers; all fields are ``[k]`` float64.

    Attributes:
        mean: Weighted sum of what was measured; divided by ``weight`` it is the average.
        square: The same of the squares.
        weight: Sum of the weights, which tends to 1.
        weight_square: Sum of the squared weights: over ``weight`` squared, the share of one measurement's noise that is
            left in the average.
    """

    mean: Tensor
    square: Tensor
    weight: Tensor
    weight_square: Tensor

    @classmethod
    def zeros(cls, size: int) -> "MovingMoments":
        """Before the first measurement."""
        return cls(*(torch.zeros(size, dtype=torch.float64) for _ in range(4)))

    def bounded(self, largest: float) -> "MovingMoments":
        """The moments of numbers that were no larger than this: averages are cut to it.

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
        """With a measurement taken in.

        Args:
            values: What was measured, ``[k]``.
            measured: Which of them were, ``[k]`` bool; the others' moments stay.
            share: Weight of the newest.
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
        # a weighted variance is too small by the share of its own noise that the mean took out
        return torch.where(left < 1, (variance / (1 - left) * left).sqrt(), torch.nan)
