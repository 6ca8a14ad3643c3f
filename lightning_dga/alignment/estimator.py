"""What every alignment estimator takes and gives."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from torch import nn

from lightning_dga.alignment.loss import ProbeLoss
from lightning_dga.alignments import Alignments


class ProbeBatch(Protocol):
    """Samples of one domain (or of the target set), collated."""

    @property
    def domain(self) -> int:
        """Index of the domain."""
        ...

    @property
    def count(self) -> int:
        """Samples in the batch."""
        ...

    @property
    def batch(self) -> Any:
        """What the loss takes."""
        ...


class Estimator(Protocol):
    """Measures alignments of k domains with the target set."""

    def estimate(
        self,
        loss: ProbeLoss,
        parameters: Sequence[nn.Parameter],
        target: Iterable[ProbeBatch],
        domains: Iterable[ProbeBatch],
        num_domains: int,
        step: int,
    ) -> Alignments | None:
        """Measures all alignments at the parameters' present values.

        Every process calls it, each with its share of the samples; each returns the same.

        Args:
            loss: The loss of a probe batch.
            parameters: The trainable parameters, each once, in the same order on every process.
            target: This process's share of the target samples.
            domains: This process's share of the domains' samples, in any number of batches, each of one domain.
            num_domains: k.
            step: Optimizer steps done.

        Returns:
            The alignments, or ``None`` where the target gradient is not finite.
        """
        ...
