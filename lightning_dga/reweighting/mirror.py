"""Steps of mirror descent on the simplex, which the published rules share."""

import math

import torch
from torch import Tensor


def stepped(weights: Tensor, gains: Tensor, step_size: float) -> Tensor:
    """``p_i`` proportional to ``w_i exp(step_size gain_i)``, ``[k]`` float64 on the simplex.

    A gain that is NaN counts as zero.
    """
    return torch.softmax(weights.log() + step_size * gains.nan_to_num(0.0, 0.0, 0.0), 0)


def averaged(old: Tensor, new: Tensor, share: float) -> Tensor:
    """``(1 - share) old + share new``, on the simplex."""
    mean = (1 - share) * old + share * new
    return mean / mean.sum()


def check_step_size(step_size: float, argument: str = "step_size") -> None:
    """Refuses a step size that is not positive and finite.

    Raises:
        ValueError: If so.
    """
    if not (math.isfinite(step_size) and step_size > 0):
        raise ValueError(f"`{argument}` must be positive, got {step_size}.")


def check_ema(ema: float) -> None:
    """Refuses a share that is not in (0, 1].

    Raises:
        ValueError: If so.
    """
    if not 0 < ema <= 1:
        raise ValueError(f"`ema` must be in (0, 1], got {ema}; 1 switches the average off.")
