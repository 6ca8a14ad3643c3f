"""From the shares that domains deserve to what is drawn of them, where some would be repeated too often.

Repeated data is worth less each time: as if new for about four epochs, and little after some fifteen (Muennighoff et
al., *Scaling Data-Constrained Language Models*, arXiv 2305.16264).
"""

import math

import torch
from torch import Tensor

from lightning_dga.core.data_budget import LOOKAHEAD, DataBudget

# chosen on targets that no result reports: docs/rules.md
EPOCHS = 8.0
_STEADY = 0.25


def check_epochs(epochs: float) -> None:
    """Refuses a number of epochs that is not positive.

    Raises:
        ValueError: If so.
    """
    if not epochs > 0:
        raise ValueError(f"`epochs` must be positive, got {epochs}; `inf` lets domains repeat without end.")


def check_lookahead(lookahead: float) -> None:
    """Refuses a horizon that is behind the run, or endless.

    Raises:
        ValueError: If so.
    """
    if not 1 <= lookahead < math.inf:
        raise ValueError(f"`lookahead` must be at least 1, and finite, got {lookahead}.")


def planned_samples(
    shares: Tensor, exposure: DataBudget, epochs: float, allowed: Tensor, lookahead: float = LOOKAHEAD
) -> Tensor:
    """Samples to draw of each domain over the whole run, or up to the horizon where its end is not known.

    A domain gets its share of the run, ``N p_i``, but of no domain more than ``epochs`` passes. What this leaves over
    goes to all domains as equally many passes, so that no domain is repeated more than ``epochs`` times oftener than
    another. Where data is plentiful the plan is the shares themselves; the scarcer it is, the nearer it comes to every
    sample alike.

    Args:
        shares: What each domain deserves, ``[k]`` float64 on the simplex.
        exposure: What the domains hold, and how long the run is.
        epochs: Most passes over a domain beyond those over any other.
        allowed: Which domains may be drawn, ``[k]`` bool.
        lookahead: Of the horizon: :meth:`~lightning_dga.core.data_budget.DataBudget.horizon`.

    Returns:
        Samples, ``[k]`` float64, summing to the horizon.
    """
    run = exposure.horizon(lookahead)
    # what the run cannot exhaust is as good as endless
    sizes = torch.where(allowed, exposure.sizes.clamp(max=run), 0.0)
    most = epochs * exposure.sizes if math.isfinite(epochs) else torch.full_like(shares, torch.inf)
    plan = torch.minimum(run * shares, torch.where(allowed, most, 0.0))
    return plan + (run - plan.sum()).clamp(min=0) * sizes / sizes.sum()


def remaining(plan: Tensor, seen: Tensor) -> Tensor:
    """Weights, ``[k]`` on the simplex, under which the rest of the run fulfils a plan, or nearly.

    Args:
        plan: Samples to draw over the whole run, ``[k]``.
        seen: Those already drawn, ``[k]``.
    """
    # the added fraction of the plan keeps sampling noise from dominating the last weights of a run, when little of
    # the plan is left to draw
    missing = (plan - seen).clamp(min=0) + _STEADY * plan
    return missing / missing.sum()
