"""What an alignment pass measured: the one value that the estimators hand to the rules."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class SampleAlignments:
    """The alignment of each sample of this process, ``<grad L_j, grad L_target>``, for a look at the data.

    Attributes:
        domains: Domain of each sample, ``[n]`` int64.
        indices: Index of each within its domain, ``[n]`` int64.
        values: Alignments, ``[n]`` float64.
        losses: Losses, ``[n]`` float64.
    """

    domains: Tensor
    indices: Tensor
    values: Tensor
    losses: Tensor


@dataclass(frozen=True)
class Alignments:
    """Gradient alignments of the k domains with the target set, all taken at the same parameters.

    The alignment of domain *i* is the plain inner product ``a_i = <grad L_i, grad L_target>`` of DGA
    (arXiv 2410.02498), before any rule rescales it.

    Attributes:
        values: Alignments, ``[k]`` float64, in the order of ``domain_names``. NaN where ``counts`` is 0.
        counts: Samples that each alignment was measured on, over all processes, ``[k]`` int64. 0 where the domain was
            not measured, or where its gradient was not finite.
        losses: Mean loss of each domain on the same samples, ``[k]`` float64. NaN where ``counts`` is 0, and where
            the estimator sees only the loss of a batch of many domains.
        target_loss: Mean loss of the target batch.
        target_norm: Euclidean norm of the target gradient.
        step: Optimizer steps that were done when it was measured.
        ages: How many measurements ago each domain's entries were taken, ``[k]`` int64. 0 unless they are carried over
            from an earlier one (:meth:`carrying`).
        samples: The same sample by sample, where the estimator gives that; not kept in checkpoints.
    """

    values: Tensor
    counts: Tensor
    losses: Tensor
    target_loss: float
    target_norm: float
    step: int
    ages: Tensor = None  # type: ignore[assignment]  # zeros, filled in below
    samples: SampleAlignments | None = None

    def __post_init__(self) -> None:
        if self.ages is None:
            object.__setattr__(self, "ages", torch.zeros_like(self.counts))

    @property
    def measured(self) -> Tensor:
        """Which domains have an alignment, ``[k]`` bool."""
        return self.counts > 0

    def carrying(self, earlier: "Alignments | None") -> "Alignments":
        """These alignments, with an earlier measurement's entries where a domain was not measured now."""
        ages = torch.where(self.measured, 0, (earlier.ages if earlier is not None else torch.zeros_like(self.ages)) + 1)
        if earlier is None:
            return replace(self, ages=ages)
        return replace(
            self,
            values=torch.where(self.measured, self.values, earlier.values),
            counts=torch.where(self.measured, self.counts, earlier.counts),
            losses=torch.where(self.measured, self.losses, earlier.losses),
            ages=ages,
        )

    def state_dict(self) -> dict[str, Any]:
        """All but the samples as tensors and numbers, so that ``torch.load(weights_only=True)`` reads them."""
        return {
            "values": self.values.clone(),
            "counts": self.counts.clone(),
            "losses": self.losses.clone(),
            "target_loss": self.target_loss,
            "target_norm": self.target_norm,
            "step": self.step,
            "ages": self.ages.clone(),
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "Alignments":
        """The inverse of :meth:`state_dict`."""
        return cls(**state)

    @classmethod
    def from_sums(
        cls, dots: Tensor, losses: Tensor, counts: Tensor, *, target_loss: float, target_norm: float, step: int
    ) -> "Alignments":
        """Divides sums over samples by their counts.

        Args:
            dots: Sum over samples of the inner products, ``[k]``.
            losses: Sum over samples of the losses, ``[k]``.
            counts: Samples in each sum, ``[k]``.
            target_loss: Mean loss of the target batch.
            target_norm: Norm of the target gradient.
            step: Optimizer steps done.
        """
        samples = counts.to("cpu", torch.float64)
        means = [
            torch.where(samples > 0, sums.to("cpu", torch.float64) / samples, torch.nan) for sums in (dots, losses)
        ]
        return cls(means[0], samples.round().to(torch.int64), means[1], target_loss, target_norm, step)
