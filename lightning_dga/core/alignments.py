"""The result of a measurement, which estimators return and rules take."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class SampleAlignments:
    """The alignment of each sample on this rank, ``<grad L_j, grad L_target>``, for data inspection.

    Attributes:
        domains: Domain of each sample, ``[n]`` int64.
        indices: Index of each sample within its domain, ``[n]`` int64.
        values: Alignments, ``[n]`` float64.
        losses: Losses, ``[n]`` float64.
    """

    domains: Tensor
    indices: Tensor
    values: Tensor
    losses: Tensor


@dataclass(frozen=True)
class Alignments:
    """Gradient alignments of the k domains with the target set, all measured at the same parameters.

    The alignment of domain *i* is the unscaled inner product ``a_i = <grad L_i, grad L_target>`` of DGA
    (arXiv 2410.02498).

    Attributes:
        values: Alignments, ``[k]`` float64, in the order of ``domain_names``. NaN where ``counts`` is 0.
        counts: Samples that each alignment was measured on, over all ranks, ``[k]`` int64. 0 if the domain was not
            measured, or its gradient was not finite.
        losses: Mean loss of each domain on the same samples, ``[k]`` float64. NaN where ``counts`` is 0, and for all
            domains if the estimator sees only the loss of a batch of many domains.
        target_loss: Mean loss of the target batch.
        target_norm: Euclidean norm of the target gradient.
        step: Optimizer steps done at the time of the measurement.
        ages: Age of each domain's entries in measurements, ``[k]`` int64. 0 unless they are carried over from an
            earlier measurement (:meth:`carrying`).
        samples: Per-sample alignments, if the estimator provides them; not kept in checkpoints.
        targets: Names of the N targets; empty if only losses were measured. With several targets, ``values``,
            ``target_loss`` and ``target_norm`` are means over the targets.
        by_target: Alignment of each domain with each target, ``[k, N]`` float64.
        target_losses: Mean loss of each target, ``[N]`` float64.
        target_norms: Norm of each target's gradient, ``[N]`` float64.
        sample_variances: Estimated variance of the inner product of one sample's gradient with the target gradient,
            ``[k]`` float64, so that ``sample_variances / counts`` is the variance of ``values`` that the choice of the
            domain's samples causes. NaN where fewer than two independent pieces (samples, or batches of them) were
            measured. With several targets, an upper bound on that of the mean over the targets.
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
    sample_variances: Tensor = None  # type: ignore[assignment]  # filled in below

    def __post_init__(self) -> None:
        only = {
            "ages": torch.zeros_like(self.counts),
            "by_target": self.values[:, None],
            "target_losses": self.values.new_tensor([self.target_loss]),
            "target_norms": self.values.new_tensor([self.target_norm]),
            "sample_variances": torch.full_like(self.values, torch.nan),
        }
        for name, value in only.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    @property
    def measured(self) -> Tensor:
        """Which domains have an alignment, ``[k]`` bool."""
        return self.counts > 0

    @property
    def standard_errors(self) -> Tensor:
        """Standard errors of ``values`` by the choice of the domains' samples, ``[k]``; NaN where not known."""
        return (self.sample_variances / self.counts).sqrt()

    def carrying(self, earlier: "Alignments | None") -> "Alignments":
        """These alignments, with the entries of an earlier measurement for domains that were not measured now."""
        ages = torch.where(self.measured, 0, (earlier.ages if earlier is not None else torch.zeros_like(self.ages)) + 1)
        if earlier is None:
            return replace(self, ages=ages)
        return replace(
            self,
            values=torch.where(self.measured, self.values, earlier.values),
            counts=torch.where(self.measured, self.counts, earlier.counts),
            losses=torch.where(self.measured, self.losses, earlier.losses),
            by_target=torch.where(self.measured[:, None], self.by_target, earlier.by_target),
            sample_variances=torch.where(self.measured, self.sample_variances, earlier.sample_variances),
            ages=ages,
        )

    def without_target(self) -> "Alignments":
        """A copy with only the losses of the domains."""
        none = self.values.new_empty(0)
        return replace(
            self,
            targets=(),
            by_target=self.values.new_empty(len(self.values), 0),
            target_losses=none,
            target_norms=none,
        )

    def state_dict(self) -> dict[str, Any]:
        """All fields except ``samples``, as tensors and numbers that ``torch.load(weights_only=True)`` can read."""
        tensors = ["values", "counts", "losses", "ages", "sample_variances"]
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
        """Combines measurements of the same samples with several targets.

        Args:
            found: The alignments by target name, at least one.
        """
        one = list(found.values())
        if len(one) == 1:
            return replace(one[0], targets=tuple(found))
        norms = torch.tensor([alignments.target_norm for alignments in one], dtype=torch.float64)
        losses = torch.tensor([alignments.target_loss for alignments in one], dtype=torch.float64)
        by_target = torch.stack([alignments.values for alignments in one], 1)
        deviations = torch.stack([alignments.sample_variances for alignments in one], 1).sqrt()
        return replace(
            one[0],
            values=by_target.mean(1),
            # a domain counts as measured only if every target's measurement has it
            counts=torch.stack([alignments.counts for alignments in one]).amin(0),
            target_loss=losses.mean().item(),
            target_norm=norms.mean().item(),
            samples=None,
            targets=tuple(found),
            by_target=by_target,
            target_losses=losses,
            target_norms=norms,
            # the standard deviation of a mean is at most the mean of the standard deviations
            sample_variances=deviations.mean(1).square(),
        )

    @classmethod
    def from_sums(
        cls,
        dots: Tensor,
        losses: Tensor,
        counts: Tensor,
        squares: Tensor | None = None,
        pieces: Tensor | None = None,
        *,
        target_loss: float,
        target_norm: float,
        step: int,
    ) -> "Alignments":
        """Alignments from sums over samples, divided by the sample counts.

        Args:
            dots: Sums over samples of the inner products, ``[k]``.
            losses: Sums over samples of the losses, ``[k]``.
            counts: Number of samples in each sum, ``[k]``.
            squares: Sums over samples of the squared mean inner product of the piece that each is in, ``[k]``.
            pieces: Number of independent pieces that the samples were measured in, ``[k]``.
            target_loss: Mean loss of the target batch.
            target_norm: Norm of the target gradient.
            step: Optimizer steps done.
        """
        samples = counts.to("cpu", torch.float64)
        means = [
            torch.where(samples > 0, sums.to("cpu", torch.float64) / samples, torch.nan) for sums in (dots, losses)
        ]
        found = cls(means[0], samples.round().to(torch.int64), means[1], target_loss, target_norm, step)
        if squares is None or pieces is None:
            return found
        squares, pieces = squares.to("cpu", torch.float64), pieces.to("cpu", torch.float64).round()
        # the mean of c samples has 1/c of their variance, so a piece's squared deviation is weighted by its samples
        deviations = (squares - samples * means[0].square()).clamp(min=0)
        return replace(found, sample_variances=torch.where(pieces > 1, deviations / (pieces - 1), torch.nan))
