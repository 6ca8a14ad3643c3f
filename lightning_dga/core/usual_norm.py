"""A moving average of the target gradient norm that is robust against outliers."""

import math
import statistics
from dataclasses import dataclass

import torch
from torch import Tensor

# largest factor between a norm and the average before it, and between the average and the median
_LARGEST_CHANGE = math.log(2.0)
_RECENT = 9


@dataclass(frozen=True)
class UsualNorm:
    """A geometric moving average of gradient norms that is robust against outliers, in any order.

    A norm is clipped to between half and twice the average before it. The average is then kept within a factor of two
    of the median of the latest nine norms, so that it recovers from a first measurement that was an outlier, and
    follows a change of level, within five measurements.

    Attributes:
        log_sum: Weighted sum of the logarithms of the norms.
        weight: Sum of the weights, which tends to 1; 0 before the first measurement.
        recent: Logarithms of the latest norms, nine at most.
    """

    log_sum: float = 0.0
    weight: float = 0.0
    recent: tuple[float, ...] = ()

    @property
    def value(self) -> float:
        """The average; NaN before the first measurement."""
        return math.exp(self.log_sum / self.weight) if self.weight else math.nan

    def updated(self, norm: float, share: float) -> "UsualNorm":
        """The average after another norm.

        Args:
            norm: The norm. One that is zero or not finite is ignored.
            share: Weight of the newest norm.
        """
        if not is_size(norm):
            return self
        newest = math.log(norm)
        recent = (*self.recent, newest)[-_RECENT:]
        if self.weight:
            newest = _near(newest, self.log_sum / self.weight)
        log_sum, weight = (1 - share) * self.log_sum + share * newest, (1 - share) * self.weight + share
        median = statistics.median_low(recent)
        if abs(log_sum / weight - median) > _LARGEST_CHANGE:
            log_sum = _near(log_sum / weight, median) * weight
        return UsualNorm(log_sum, weight, recent)

    def as_tensor(self) -> Tensor:
        """The fields as one tensor, ``[2 + len(recent)]`` float64."""
        return torch.tensor([self.log_sum, self.weight, *self.recent], dtype=torch.float64)

    @classmethod
    def from_tensor(cls, numbers: Tensor) -> "UsualNorm":
        """The inverse of :meth:`as_tensor`."""
        log_sum, weight, *recent = numbers.tolist()
        return cls(log_sum, weight, tuple(recent))


def is_size(norm: float) -> bool:
    """Whether a gradient norm is usable: neither zero nor infinite nor NaN."""
    return math.isfinite(norm) and norm > 0


def _near(log: float, center: float) -> float:
    return center + min(max(log - center, -_LARGEST_CHANGE), _LARGEST_CHANGE)
