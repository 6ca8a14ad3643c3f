"""Mirror descent steps on the simplex, shared by the published rules."""

import math

import torch
from torch import Tensor

# the logarithms of weights are added, and differences taken
_LARGEST = 1e300


def stepped(weights: Tensor, gains: Tensor, step_size: float) -> Tensor:
    """``p_i`` proportional to ``w_i exp(step_size gain_i)``, ``[k]`` float64 on the simplex.

    A gain that is not finite counts as zero; one that would overflow is clipped to the largest that does not.
    """
    steps = (step_size * gains.nan_to_num(0.0, 0.0, 0.0)).clamp(-_LARGEST, _LARGEST)
    return torch.softmax(weights.log() + steps, 0)


def averaged(old: Tensor, new: Tensor, share: float) -> Tensor:
    """``(1 - share) old + share new``, on the simplex."""
    mean = (1 - share) * old + share * new
    return mean / mean.sum()


def check_step_size(step_size: float, argument: str = "step_size") -> None:
    """Checks that a step size is positive and finite.

    Raises:
        ValueError: If it is not.
    """
    if not (math.isfinite(step_size) and step_size > 0):
        raise ValueError(f"`{argument}` must be positive, got {step_size}.")


def check_ema(ema: float) -> None:
    """Checks that the weight of the newest value in a moving average is in (0, 1].

    Raises:
        ValueError: If it is not.
    """
    if not 0 < ema <= 1:
        raise ValueError(f"`ema` must be in (0, 1], got {ema}; 1 switches the average off.")
