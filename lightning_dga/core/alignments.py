"""What an alignment pass measured: the one value that the estimators hand to the rules."""

from collections.abc import Mapping
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
        targets: Names of the N targets; none where losses alone were measured. Of several, ``values``, ``target_loss``
            and ``target_norm`` are the means.
        by_target: Alignment of each domain with each target, ``[k, N]`` float64.
        target_losses: Mean loss of each target, ``[N]`` float64.
        target_norms: Norm of each target's gradient, ``[N]`` float64.
    """

    values: Tensor
    counts: Tensor
    losses: Tensor
    target_loss: float
    target_norm: float
    step: int
    ages: Tensor = None  # type: ignore[assignment]  # filled in below, as are those of one target
    samples: SampleAlignments | None = None
    targets: tuple[str, ...] = ("target",)
    by_target: Tensor = None  # type: ignore[assignment]
    target_losses: Tensor = None  # type: ignore[assignment]
    target_norms: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        only = {
            "ages": torch.zeros_like(self.counts),
            "by_target": self.values[:, None],
            "target_losses": self.values.new_tensor([self.target_loss]),
            "target_norms": self.values.new_tensor([self.target_norm]),
        }
        for name, value in only.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

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
            by_target=torch.where(self.measured[:, None], self.by_target, earlier.by_target),
            ages=ages,
        )

    def without_target(self) -> "Alignments":
        """The losses of the domains alone."""
        none = self.values.new_empty(0)
        return replace(
            self,
            targets=(),
            by_target=self.values.new_empty(len(self.values), 0),
            target_losses=none,
            target_norms=none,
        )

    def state_dict(self) -> dict[str, Any]:
        """All but the samples as tensors and numbers, so that ``torch.load(weights_only=True)`` reads them."""
        tensors = ["values", "counts", "losses", "ages"]
        of_several = {"targets": list(self.targets)} if len(self.targets) != 1 else {}
        if of_several:
            tensors += ["by_target", "target_losses", "target_norms"]
        return {
            **{name: getattr(self, name).clone() for name in tensors},
            **{name: getattr(self, name) for name in ("target_loss", "target_norm", "step")},
            **of_several,
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "Alignments":
        """The inverse of :meth:`state_dict`."""
        return cls(**{**state, "targets": tuple(state.get("targets", ("target",)))})

    @classmethod
    def of_targets(cls, found: Mapping[str, "Alignments"]) -> "Alignments":
        """Puts together what was measured of the same samples with one target after another.

        Args:
            found: The alignments by name of the target, at least one.
        """
        one = list(found.values())
        if len(one) == 1:
            return replace(one[0], targets=tuple(found))
        norms = torch.tensor([alignments.target_norm for alignments in one], dtype=torch.float64)
        losses = torch.tensor([alignments.target_loss for alignments in one], dtype=torch.float64)
        by_target = torch.stack([alignments.values for alignments in one], 1)
        return replace(
            one[0],
            values=by_target.mean(1),
            # a domain that one of them could not measure was not measured
            counts=torch.stack([alignments.counts for alignments in one]).amin(0),
            target_loss=losses.mean().item(),
            target_norm=norms.mean().item(),
            samples=None,
            targets=tuple(found),
            by_target=by_target,
            target_losses=losses,
            target_norms=norms,
        )

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
