"""How much has been drawn of each domain, and how much the run will draw in all: what repetition is judged by."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Exposure:
    """What a run has drawn of each domain so far, what the domains hold, and how long the run will be.

    Attributes:
        seen: Training samples drawn from each domain so far, over all processes, ``[k]`` float64.
        sizes: Samples that each domain holds, ``[k]`` float64; infinite for a stream, whose size is not known.
        planned: Training samples that the whole run will draw, over all processes; ``None`` if not known.
    """

    seen: Tensor
    sizes: Tensor
    planned: float | None = None

    @property
    def epochs(self) -> Tensor:
        """How often each domain has been gone through, ``[k]`` float64."""
        return self.seen / self.sizes

    @property
    def horizon(self) -> float:
        """Samples to plan for: those of the whole run.

        Where its length is not known, as many again as have been seen, and at least all that domains of known size
        hold.
        """
        seen = self.seen.sum().item()
        if self.planned is not None:
            return max(self.planned, seen, 1.0)
        held = self.sizes[self.sizes.isfinite()].sum().item()
        return max(2 * seen, held, 1.0)

    def of_mixtures(self, mixtures: Tensor) -> "Exposure":
        """The same of mixtures of the domains, each taken for a domain.

        A mixture holds as many samples as make its samples seen once on average, if all are drawn from it; and as many
        of them count as seen as make that average what it is.

        Args:
            mixtures: Weights of the domains in each mixture, ``[N, k]``, rows on the simplex.
        """
        sizes = 1 / (mixtures.square() / self.sizes).sum(1)
        seen = torch.where(sizes.isfinite(), (mixtures @ self.epochs) * sizes, 0.0)
        return Exposure(seen, sizes, self.horizon)
