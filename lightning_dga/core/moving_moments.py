"""Exponential moving averages of values that are not all measured every time, with their standard errors."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class MovingMoments:
    """Exponential moving first and second moments of k values; all fields are ``[k]`` float64.

    Attributes:
        mean: Weighted sum of the measured values; divided by ``weight`` it is the average.
        square: Weighted sum of their squares.
        weight: Sum of the weights, which tends to 1.
        weight_square: Sum of the squared weights, each over the relative number of its samples; divided by ``weight``
            squared it is the fraction of a usual measurement's variance that is left in the average.
        inverse_samples: Weighted sum of the inverse relative numbers of samples: ``weight`` if all were equal, and if
            not given.
    """

    mean: Tensor
    square: Tensor
    weight: Tensor
    weight_square: Tensor
    inverse_samples: Tensor = None  # type: ignore[assignment]  # filled in below

    def __post_init__(self) -> None:
        if self.inverse_samples is None:
            object.__setattr__(self, "inverse_samples", self.weight)

    @classmethod
    def zeros(cls, size: int) -> "MovingMoments":
        """The moments before the first measurement."""
        return cls(*(torch.zeros(size, dtype=torch.float64) for _ in range(4)))

    def bounded(self, largest: float) -> "MovingMoments":
        """The moments with averages clipped to a largest absolute value."""
        most = largest * self.weight
        return replace(self, mean=self.mean.clamp(-most, most), square=self.square.clamp(max=largest * most))

    def updated(self, values: Tensor, measured: Tensor, share: float, samples: Tensor | None = None) -> "MovingMoments":
        """The moments after another measurement.

        With r the samples of a value over the mean of all measured values', the share of the value in its average is
        ``share r / (1 - share + share r)``: the inverse-variance weight of r usual measurements beside the earlier
        ones, as the gain of a Kalman filter. So every average rests on about as many samples as the others, collected
        over more measurements where each has few.

        Args:
            values: Measured values, ``[k]``.
            measured: Which values were measured, ``[k]`` bool; the moments of the others do not change.
            share: Weight of the newest value, if all are measured on equally many samples.
            samples: Samples that each value was measured on, ``[k]``; equally many if not given.
        """
        values = torch.where(measured, values, 0.0)
        size = torch.ones_like(self.weight)
        if samples is not None:
            size = torch.where(measured, samples * measured.sum() / samples[measured].sum().double(), size)
        usual = torch.where(measured, share, 0.0).double()
        new = usual * size / (1 - usual + usual * size)
        return MovingMoments(
            mean=(1 - new) * self.mean + new * values,
            square=(1 - new) * self.square + new * values.square(),
            weight=(1 - new) * self.weight + new,
            weight_square=(1 - new).square() * self.weight_square + new.square() / size,
            inverse_samples=(1 - new) * self.inverse_samples + new / size,
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
        # the expectation of this variance, in units of that of a usual measurement; for one measurement it is zero
        expected = self.inverse_samples / self.weight - left
        return torch.where(expected > 1e-9 * left, (variance / expected * left).sqrt(), torch.nan)
