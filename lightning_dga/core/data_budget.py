"""The data budget: samples drawn from each domain, domain sizes, and the expected length of the run."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

# tuned on targets that are not used in any reported result: docs/rules.md
LOOKAHEAD = 1.25
# average passes over all data up to which a planned length is trusted fully, and above which not at all: repeated data
# is worth little after about fifteen passes (arXiv 2305.16264), so a longer plan is assumed to be stopped early
_TRUSTED_PASSES, _DOUBTED_PASSES = 10.0, 16.0


@dataclass(frozen=True)
class DataBudget:
    """Samples drawn from each domain so far, the sizes of the domains, and the expected length of the run.

    Attributes:
        seen: Training samples drawn from each domain so far, over all ranks, ``[k]`` float64.
        sizes: Number of samples in each domain, ``[k]`` float64; infinite for a stream, whose size is not known.
        planned: Training samples drawn when the run reaches its limit, over all ranks; ``None`` if it has no limit.
        least: Training samples before which the run does not end.
        ahead: Training samples until the weights can be changed again; ``None`` if they are set only once.
        may_end_early: Whether something, such as early stopping, may end the run before its limit.
        of_domains: In a budget of mixtures of the domains, the budget of the domains themselves.
    """

    seen: Tensor
    sizes: Tensor
    planned: float | None = None
    least: float = 0.0
    ahead: float | None = None
    may_end_early: bool = False
    of_domains: "DataBudget | None" = None

    @property
    def epochs(self) -> Tensor:
        """Number of epochs of each domain seen so far, ``[k]`` float64."""
        return self.seen / self.sizes

    def horizon(self, lookahead: float = LOOKAHEAD) -> float:
        """The planning horizon in samples: the length of the run, as far as it is known.

        For a run that may end at any moment the horizon is short, but not before the weights can be changed again. A
        planned length of many passes over all data is trusted less the more passes it means; the horizon then lies
        between the short one and the planned length.

        Args:
            lookahead: Short horizon in units of the samples seen so far.
        """
        if self.of_domains is not None:
            return self.of_domains.horizon(lookahead)
        seen = self.seen.sum().item()
        # weights that are set only once are planned for one pass over all data
        ahead = self.sizes[self.sizes.isfinite()].sum().item() if self.ahead is None else self.ahead
        soon = max(lookahead * seen, seen + ahead, self.least, 1.0)
        if self.planned is None:
            return soon
        planned = max(self.planned, seen, 1.0)
        trust = self._trust(planned)
        return planned if trust == 1 else min(planned, soon ** (1 - trust) * planned**trust)

    def _trust(self, planned: float) -> float:
        if self.may_end_early:
            return 0.0
        passes = planned / self.sizes.sum().item()
        return min(max((_DOUBTED_PASSES - passes) / (_DOUBTED_PASSES - _TRUSTED_PASSES), 0.0), 1.0)

    def of_mixtures(self, mixtures: Tensor) -> "DataBudget":
        """The budget with each mixture of the domains (a basis distribution) treated as a domain.

        The size of a mixture is the number of samples after which, if all were drawn from it, its samples would have
        been seen once on average. Its ``seen`` is the number of such samples that gives the present average.

        Args:
            mixtures: Weights of the domains in each mixture, ``[N, k]``, rows on the simplex.
        """
        sizes = 1 / (mixtures.square() / self.sizes).sum(1)
        seen = torch.where(sizes.isfinite(), (mixtures @ self.epochs) * sizes, 0.0)
        return replace(self, seen=seen, sizes=sizes, of_domains=self.of_domains or self)
