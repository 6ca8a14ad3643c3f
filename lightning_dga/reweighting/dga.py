"""Dynamic gradient alignment with noise shrinkage, a moving average and a limit on repetition: the default rule."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from lightning_dga.core.alignments import Alignments
from lightning_dga.core.data_budget import LOOKAHEAD, DataBudget
from lightning_dga.core.moving_moments import MovingMoments
from lightning_dga.core.usual_norm import UsualNorm, is_size
from lightning_dga.core.weights import as_weights
from lightning_dga.reweighting.mirror import check_ema, check_step_size
from lightning_dga.reweighting.registry import register_rule
from lightning_dga.reweighting.repetition import (
    EPOCHS,
    check_epochs,
    check_lookahead,
    planned_samples,
    remaining,
)
from lightning_dga.reweighting.rule import RuleState
from lightning_dga.reweighting.traits import Traits

_TINY = torch.finfo(torch.float64).tiny
# fractions of the best mixture's advantage at which the prior's trust is 0 and 1, linear in between
_DOUBTED, _TRUSTED = 0.4, 0.8


@register_rule("dga")
@dataclass(frozen=True)
class DGA:
    """Scale-free dynamic gradient alignment with a moving average and a limit on repetition: the default rule.

    An update has three steps; ``docs/rules.md`` has the equations and says what each part contributes.

    1. *Weights from alignments.* The inner products are divided by the target gradient's norm, clipped to its usual
       size and averaged over updates (EMA), weighted by their samples. A domain's advantage is its average minus that
       of the average domain. The log-weights are the advantages in units of the largest one, shrunk by the fraction of
       their variance that is noise, and shrunk further if even the largest is small relative to the target gradient.
    2. *Prior.* With a prior, the result is ``t prior + (1 - t) q``, with q of step 1. The trust t is high while the
       prior's mixture reaches most of the advantage of q, given the noise of both, and that advantage is not small.
    3. *Repetition.* These weights become a plan for the whole run, in which no domain is repeated more than ``epochs``
       times oftener than another (:mod:`lightning_dga.reweighting.repetition`); the weights in force are proportional
       to the samples still missing from the plan. A run that may end at any moment is planned only a little ahead
       (:class:`~lightning_dga.core.data_budget.DataBudget`).

    The weights do not accumulate over updates as in mirror descent: they follow the averaged alignments back.

    Args:
        step_size: Without noise in the alignments, the best domain's weight is ``exp(step_size)`` times that of all
            average ones together.
        ema: Weight of the newest alignments in the average, where all are measured on equally many samples.
        enough: The smallest advantage that has its full effect, in units of the target gradient's usual norm: 1 is the
            advantage of a step on the target itself.
        epochs: Maximum passes over a domain beyond those over any other.
        lookahead: Planned end of a run that may end at any moment, in units of the samples seen so far.
        prior: A guess at the weights, such as a histogram of the target over the domains, as a mapping that names every
            domain or as k numbers. Without one, the run starts with the data module's weights.

    Raises:
        ValueError: If a setting is out of range; from :meth:`start`, if the prior does not fit the domains.
    """

    traits: ClassVar[Traits] = Traits(limits_repetition=True)

    step_size: float = 3.0
    ema: float = 0.1
    enough: float = 0.15
    epochs: float = EPOCHS
    lookahead: float = LOOKAHEAD
    prior: Mapping[str, float] | Sequence[float] | Any = None

    def __post_init__(self) -> None:
        check_step_size(self.step_size)
        check_ema(self.ema)
        check_step_size(self.enough, "enough")
        check_epochs(self.epochs)
        check_lookahead(self.lookahead)

    def start(self, domain_names: Sequence[str], weights: Tensor, exposure: DataBudget) -> tuple[Tensor, RuleState]:
        """See :class:`~lightning_dga.reweighting.rule.Rule`."""
        prior = weights if self.prior is None else _prior(self.prior, domain_names, weights)
        state = {
            "base": weights,
            "prior": prior,
            "log_norm": UsualNorm().as_tensor(),
            **vars(MovingMoments.zeros(len(weights))),
        }
        drawn = self._drawn(prior, state, exposure)
        # keeps the user's weights bit for bit if the planned ones differ only by rounding
        return weights if torch.allclose(drawn, weights) else drawn, state

    def update(
        self, weights: Tensor, alignments: Alignments, state: RuleState, exposure: DataBudget
    ) -> tuple[Tensor, RuleState]:
        """See :class:`~lightning_dga.reweighting.rule.Rule`. A domain that was never measured counts as average.

        A measurement with a target gradient that is zero or not finite is ignored: the averages stay as they are.
        """
        norm = alignments.target_norm
        usual = UsualNorm.from_tensor(state["log_norm"]).updated(norm, self.ema)
        moments = _moments(state)
        if is_size(norm):
            along = alignments.values / norm
            fresh = alignments.measured & (alignments.ages == 0) & ~along.isnan()
            # averages from a time of larger gradients are clipped to the present usual norm
            along = along.clamp(-usual.value, usual.value)
            moments = moments.bounded(usual.value).updated(along, fresh, self.ema, alignments.counts)
        state = {**state, "log_norm": usual.as_tensor(), **vars(moments)}
        return self._drawn(self._shares(state, moments, usual.value), state, exposure), state

    def _shares(self, state: RuleState, moments: MovingMoments, usual: float) -> Tensor:
        base, prior = state["base"], state["prior"]
        known = (moments.weight > 0) & (base > 0)
        if not known.any():
            return prior
        over = torch.where(known, base, 0.0) / base[known].sum().clamp(min=_TINY)
        advantage = torch.where(known, moments.average - (over * moments.average.nan_to_num(0.0)).sum(), 0.0)
        # before the noise can be estimated, all variance is taken to be noise
        noise = torch.where(known, moments.standard_error.square().nan_to_num(torch.inf), 0.0)
        spread = (over * advantage.square()).sum()
        signal = (1 - (over * noise).nan_to_num(torch.inf).sum() / spread.clamp(min=_TINY)).clamp(0, 1)
        if not signal > 0:
            return prior
        largest = advantage.max().clamp(min=_TINY)
        enough = self.enough * usual
        worth = (largest / enough).clamp(max=1).square()
        height = worth * signal * (self.step_size + torch.special.entr(base).sum())
        q = torch.softmax(base.log() + height * advantage / largest, 0)
        if self.prior is None:
            return q
        error = ((prior - q).square() * noise).sum().sqrt()
        best, own = (q * advantage).sum() - error, (prior * advantage).sum() + error
        trust = ((own / best - _DOUBTED) / (_TRUSTED - _DOUBTED)).clamp(0, 1) if best > 0 else torch.ones(())
        trust = trust * (2 * own / enough).clamp(0, 1)
        return trust * prior + (1 - trust) * q

    def _drawn(self, shares: Tensor, state: RuleState, exposure: DataBudget) -> Tensor:
        plan = planned_samples(shares, exposure, self.epochs, state["base"] > 0, self.lookahead)
        return remaining(plan, exposure.seen)


def _prior(prior: Any, domain_names: Sequence[str], weights: Tensor) -> Tensor:
    shares = torch.where(weights > 0, as_weights(prior, domain_names, argument="prior"), 0.0)
    if not shares.sum() > 0:
        raise ValueError("`prior` is zero on every domain that has a weight in the data module; give it another.")
    return shares / shares.sum()


def _moments(state: RuleState) -> MovingMoments:
    # older checkpoints lack some
    return MovingMoments(**{field.name: state[field.name] for field in fields(MovingMoments) if field.name in state})
