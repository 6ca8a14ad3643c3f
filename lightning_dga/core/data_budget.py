"""How much has been drawn of each domain, and how much the run will draw in all: what repetition is judged by."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

# chosen on targets that no result reports: docs/rules.md
LOOKAHEAD = 1.25
# average passes over all data up to which a planned length is trusted in full, and from which not at all: repeated data
# is worth little after some fifteen (arXiv 2305.16264), so that whoever plans for more expects to stop earlier
_TRUSTED_PASSES, _DOUBTED_PASSES = 10.0, 16.0


@dataclass(frozen=True)
class DataBudget:
    """What a run has drawn of each domain so far, what the domains hold, and how long the run will be.

    Attributes:
        seen: Training samples drawn from each domain so far, over all processes, ``[k]`` float64.
        sizes: Samples that each domain holds, ``[k]`` float64; infinite for a stream, whose size is not known.
        planned: Training samples that the run will have drawn when it reaches its limit, over all processes; ``None``
            where it has none.
        least: Training samples before which the run does not end.
        ahead: Training samples until the weights can be changed again; ``None`` where they are set once.
        may_end_early: Whether something may end the run before its limit, such as early stopping.
        of_domains: Where this is the exposure of mixtures of the domains, that of the domains themselves.
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
        """How often each domain has been gone through, ``[k]`` float64."""
        return self.seen / self.sizes

    def horizon(self, lookahead: float = LOOKAHEAD) -> float:
        """Samples to plan for: those of the whole run, as far as it is known how long that is.

        A run that may end at any moment is planned to end soon, but not before the weights can be changed again. A
        planned length that means many passes over all data is trusted the less the more they are, and the horizon lies
        between the two.

        Args:
            lookahead: When a run that may end at any moment is planned to end, in units of what it has seen.
        """
        if self.of_domains is not None:
            return self.of_domains.horizon(lookahead)
        seen = self.seen.sum().item()
        # weights that are set once are planned for one pass over all data
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
