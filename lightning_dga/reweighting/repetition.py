"""Turns desired domain weights into a sampling plan that limits the repetition of small domains.

The value of repeated data falls with every epoch: it is about as good as new data for up to four epochs, and worth
little after about fifteen (Muennighoff et al., *Scaling Data-Constrained Language Models*, arXiv 2305.16264).
"""

import math

import torch
from torch import Tensor

from lightning_dga.core.data_budget import LOOKAHEAD, DataBudget

# tuned on targets that are not used in any reported result: docs/rules.md
EPOCHS = 8.0
_STEADY = 0.25


def check_epochs(epochs: float) -> None:
    """Checks that a number of epochs is positive.

    Raises:
        ValueError: If it is not.
    """
    if not epochs > 0:
        raise ValueError(f"`epochs` must be positive, got {epochs}; `inf` lets domains repeat without end.")


def check_lookahead(lookahead: float) -> None:
    """Checks that a lookahead is at least 1 and finite.

    Raises:
        ValueError: If it is not.
    """
    if not 1 <= lookahead < math.inf:
        raise ValueError(f"`lookahead` must be at least 1, and finite, got {lookahead}.")


def planned_samples(
    shares: Tensor, exposure: DataBudget, epochs: float, allowed: Tensor, lookahead: float = LOOKAHEAD
) -> Tensor:
    """Samples to draw from each domain over the whole run, or up to the horizon if its end is not known.

    A domain gets its share of the run, ``N p_i``, but at most ``epochs`` passes. The remainder is distributed over all
    domains as equally many passes, so that no domain is repeated more than ``epochs`` times oftener than another. With
    plenty of data the plan follows the shares; the scarcer the data, the closer the plan is to uniform over samples.

    Args:
        shares: Desired weight of each domain, ``[k]`` float64 on the simplex.
        exposure: The data budget: the sizes of the domains and the length of the run.
        epochs: Maximum passes over a domain beyond those over any other.
        allowed: Which domains may be drawn, ``[k]`` bool.
        lookahead: Lookahead of :meth:`~lightning_dga.core.data_budget.DataBudget.horizon`.

    Returns:
        Samples, ``[k]`` float64, summing to the horizon.
    """
    run = exposure.horizon(lookahead)
    # a domain larger than the run counts with the length of the run
    sizes = torch.where(allowed, exposure.sizes.clamp(max=run), 0.0)
    most = epochs * exposure.sizes if math.isfinite(epochs) else torch.full_like(shares, torch.inf)
    plan = torch.minimum(run * shares, torch.where(allowed, most, 0.0))
    return plan + (run - plan.sum()).clamp(min=0) * sizes / sizes.sum()


def remaining(plan: Tensor, seen: Tensor) -> Tensor:
    """Weights, ``[k]`` on the simplex, under which the rest of the run approximately completes a plan.

    Args:
        plan: Samples to draw over the whole run, ``[k]``.
        seen: Samples already drawn, ``[k]``.
    """
    # the added fraction of the plan keeps sampling noise from dominating the last weights of a run, when little of
    # the plan is left to draw
    missing = (plan - seen).clamp(min=0) + _STEADY * plan
    return missing / missing.sum()
