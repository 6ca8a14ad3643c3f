"""The length of a run."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RunLength:
    """Length of a run in training samples over all ranks, including samples seen before the run was resumed.

    Attributes:
        planned: Samples seen when the run reaches its limit; ``None`` if it has no limit.
        least: Samples before which the run does not end.
        may_end_early: Whether early stopping or a time limit may end the run before its limit.
        period: Samples in ``every_n_steps`` training steps; ``None`` if that was not given.
        seen: Samples seen so far.
    """

    planned: float | None
    least: float
    may_end_early: bool
    period: float | None
    seen: float

    @property
    def periods(self) -> float | None:
        """Number of periods left until the limit; ``None`` if there is no limit."""
        return None if self.planned is None or self.period is None else (self.planned - self.seen) / self.period
