"""Alignments averaged over updates, and their signal-to-noise ratio."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lightning_dga.core.alignments import Alignments
from lightning_dga.core.moving_moments import MovingMoments
from lightning_dga.core.usual_norm import UsualNorm, is_size


@dataclass(frozen=True)
class AlignmentAverages:
    """Exponential moving moments of each domain's alignment in units of the target's squared gradient norm.

    These units make the average independent of how gradient norms grow or shrink during training. In one of the two
    norm factors, a norm below half the usual one is replaced by half the usual one, so that a tiny target gradient does
    not yield a huge relative alignment. A measurement counts in proportion to its samples. An update
    in which a domain was not measured does not change its moments; an update whose target gradient is zero or not
    finite changes none.

    Attributes:
        moments: Moments of the relative alignments; ``None`` before the first update.
        usual: Moving average of the target gradient norm.
    """

    moments: MovingMoments | None = None
    usual: UsualNorm = field(default_factory=UsualNorm)

    def updated(self, alignments: Alignments, ema: float) -> "AlignmentAverages":
        """The averages after another measurement.

        Args:
            alignments: The measurement.
            ema: Weight of this measurement in the average.
        """
        earlier = self.moments or MovingMoments.zeros(len(alignments.values))
        if not is_size(alignments.target_norm):
            return AlignmentAverages(earlier, self.usual)
        usual = self.usual.updated(alignments.target_norm, ema)
        relative = alignments.values / alignments.target_norm / max(alignments.target_norm, usual.value / 2)
        fresh = alignments.measured & (alignments.ages == 0) & relative.isfinite()
        return AlignmentAverages(earlier.updated(relative, fresh, ema, alignments.counts), usual)

    def smoothed(self, alignments: Alignments) -> Alignments:
        """The measurement with its values and their noise replaced by the averages', rescaled to its own units."""
        assert self.moments is not None
        known = alignments.measured & (self.moments.weight > 0) & is_size(alignments.target_norm)
        values = self.moments.average * alignments.target_norm**2
        variances = (self.moments.standard_error * alignments.target_norm**2).square() * alignments.counts
        return replace(
            alignments,
            values=torch.where(known, values, alignments.values),
            # an average of one measurement has that one's
            sample_variances=torch.where(known & variances.isfinite(), variances, alignments.sample_variances),
        )

    @property
    def signal_to_noise(self) -> Tensor | None:
        """Each domain's absolute average over its standard error, ``[k]``; NaN before the second measurement."""
        return None if self.moments is None else self.moments.average.abs() / self.moments.standard_error

    def state_dict(self) -> dict[str, Any]:
        """The moments."""
        return {} if self.moments is None else {**vars(self.moments), "usual": self.usual.as_tensor()}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "AlignmentAverages":
        """The inverse of :meth:`state_dict`."""
        if not state or state["mean"] is None:
            return cls()
        fields = {name: value for name, value in state.items() if name != "usual"}
        # older checkpoints have no `usual`
        usual = UsualNorm.from_tensor(state["usual"]) if "usual" in state else UsualNorm()
        return cls(MovingMoments(**fields), usual)
