"""Dynamic gradient alignment with noise shrinkage, a moving average and a limit on repetition: the default rule."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
# a prior that has this share of the advantage that alignments see is not trusted at all, or in full
_DOUBTED, _TRUSTED = 0.4, 0.8


@register_rule("dga")
@dataclass(frozen=True)
class DGA:
    """Dynamic gradient alignment without a scale, which forgets, and which minds repetition: the default rule.

    Each update goes three steps; ``docs/rules.md`` has the equations, and what each part is worth.

    1. *What the domains deserve, by alignment.* The inner products are divided by the target gradient's norm, cut to
       its usual size and averaged over updates. A domain's advantage is what it has over the average domain. The
       advantages in units of the largest, shrunk by the share of their spread that is noise, and where even the largest
       is small beside the target's own gradient, are log-weights.
    2. *The prior's word.* With a prior, the shares are ``t prior + (1 - t) q``, with q of step 1. It is trusted while
       its mixture has most of the advantage that q has, given the noise of both, and an advantage that counts.
    3. *What is drawn.* The shares are turned into a plan of the whole run, in which no domain is repeated more than
       ``epochs`` times oftener than another (:mod:`lightning_dga.reweighting.repetition`), and the weights are what the
       plan still lacks. A run that may end at any moment is planned a little ahead of where it is
       (:class:`~lightning_dga.core.data_budget.DataBudget`).

    Nothing accumulates: weights come back when alignments do.

    Args:
        step_size: The best domain's weight is ``exp(step_size)`` times that of all average ones together, where
            alignments are free of noise.
        ema: Share of the newest alignments in the average.
        enough: The least advantage that counts in full, in units of the target gradient's usual norm: 1 is that of a
            step on the target itself.
        epochs: Most passes over a domain beyond those over any other.
        lookahead: When a run that may end at any moment is planned to end, in units of the samples that it has seen.
        prior: A guess at the shares, such as a histogram of the target over the domains, as a mapping that names every
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
        # not to the last bit another mixture than the user's, where it means the same
        return weights if torch.allclose(drawn, weights) else drawn, state

    def update(
        self, weights: Tensor, alignments: Alignments, state: RuleState, exposure: DataBudget
    ) -> tuple[Tensor, RuleState]:
        """See :class:`~lightning_dga.reweighting.rule.Rule`. A domain that was never measured is an average one.

        A target gradient that is zero or not finite says nothing of any domain: the alignments are those of before.
        """
        norm = alignments.target_norm
        usual = UsualNorm.from_tensor(state["log_norm"]).updated(norm, self.ema)
        moments = _moments(state)
        if is_size(norm):
            along = alignments.values / norm
            fresh = alignments.measured & (alignments.ages == 0) & ~along.isnan()
            # what was taken in when gradients were larger counts as the usual of now at most
            moments = moments.bounded(usual.value).updated(along.clamp(-usual.value, usual.value), fresh, self.ema)
        state = {**state, "log_norm": usual.as_tensor(), **vars(moments)}
        return self._drawn(self._shares(state, moments, usual.value), state, exposure), state

    def _shares(self, state: RuleState, moments: MovingMoments, usual: float) -> Tensor:
        base, prior = state["base"], state["prior"]
        known = (moments.weight > 0) & (base > 0)
        if not known.any():
            return prior
        over = torch.where(known, base, 0.0) / base[known].sum().clamp(min=_TINY)
        advantage = torch.where(known, moments.average - (over * moments.average.nan_to_num(0.0)).sum(), 0.0)
        # before there is an estimate of the noise, all is noise
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
    return MovingMoments(**{name: state[name] for name in ("mean", "square", "weight", "weight_square")})
