"""When the weights are updated: every so many steps, or as often as a budget of work allows."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

# training steps between updates early in a run
EARLY_PERIOD = 10.0


class Schedule(Protocol):
    """The training steps after which the weights are updated."""

    def is_due(self, step: int, last: int) -> bool:
        """Whether an update follows a training step.

        Args:
            step: Training steps done.
            last: Training steps done at the last update.
        """
        ...

    def ahead(self, step: int) -> int:
        """Training steps until the next update."""
        ...

    def updates(self, begin: int, end: float) -> float:
        """Number of updates between two training steps."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to keep the schedule."""
        ...


@dataclass(frozen=True)
class FixedSchedule:
    """An update every T_r training steps, as in DGA (arXiv 2410.02498).

    Attributes:
        every_n_steps: The reweighting period T_r.
    """

    every_n_steps: int

    def is_due(self, step: int, last: int) -> bool:
        """See :class:`Schedule`."""
        return step // self.every_n_steps > last // self.every_n_steps

    def ahead(self, step: int) -> int:
        """See :class:`Schedule`."""
        return self.every_n_steps

    def updates(self, begin: int, end: float) -> float:
        """See :class:`Schedule`."""
        return (end - begin) / self.every_n_steps

    def state_dict(self) -> dict[str, Any]:
        """See :class:`Schedule`."""
        return {}


@dataclass(frozen=True)
class BudgetedSchedule:
    """As many updates as a share of the training's work allows, more of them early in the run.

    The mixture is most wrong, and gradients change fastest, at the start. So the number of updates done grows with the
    square root of the steps: after a quarter of the run it is half of all. Early updates are ten steps apart, or less
    where the budget allows that throughout.

    A run that is too short for the budget to pay for ``min_updates`` has that many all the same, as far as they are ten
    steps apart. If its length is not known, the updates are those of a run that ends at any moment: the budget is
    exceeded until the run has been long enough. After its planned end a run goes on at half the average density.

    Attributes:
        max_overhead: Work of the updates relative to that of training.
        period: Training steps between updates if they were spread evenly, so that they cost ``max_overhead``.
        min_updates: Number of updates that a run has whatever they cost.
        begin: Training steps done when the schedule begins.
        length: Training steps of the run from then on; ``None`` if that is not known.
    """

    max_overhead: float
    period: float
    min_updates: int
    begin: int = 0
    length: float | None = None

    def is_due(self, step: int, last: int) -> bool:
        """See :class:`Schedule`."""
        return math.floor(self._done(step)) > math.floor(self._done(last))

    def ahead(self, step: int) -> int:
        """See :class:`Schedule`."""
        low, high = step, step + 1
        while not self.is_due(high, step):
            low, high = high, high + 2 * (high - step)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.is_due(middle, step) else (middle, high)
        return high - step

    def updates(self, begin: int, end: float) -> float:
        """See :class:`Schedule`."""
        return self._done(end) - self._done(begin)

    def state_dict(self) -> dict[str, Any]:
        """See :class:`Schedule`."""
        return asdict(self)

    @classmethod
    def from_state_dict(
        cls, state: Mapping[str, Any], max_overhead: float, min_updates: int
    ) -> "BudgetedSchedule | None":
        """The schedule of a checkpoint; ``None`` if that has none, or one of another budget."""
        if not state or (state["max_overhead"], state["min_updates"]) != (max_overhead, min_updates):
            return None
        return cls(**state)

    def _done(self, step: float) -> float:
        """Updates due until a training step, whose whole part counts."""
        steps = max(step - self.begin, 0)
        early = steps / min(EARLY_PERIOD, max(self.period, 1.0))
        if self.length is None:
            return min(early, max(steps / self.period, math.sqrt(self.min_updates * steps / EARLY_PERIOD)))
        length = max(self.length, 1.0)
        total = max(length / self.period, min(length / EARLY_PERIOD, self.min_updates))
        if steps > length:
            return total + (steps - length) * total / length / 2
        return min(early, total * math.sqrt(steps / length))
