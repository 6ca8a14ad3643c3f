"""The message that says before training how often measurements are made, and what they cost."""

from lightning_dga.alignment import Cost
from lightning_dga.engine.schedule import EARLY_PERIOD, BudgetedSchedule, Schedule


def described_cost(cost: Cost, schedule: Schedule, step: int, end: float | None, *, has_target: bool) -> str:
    """What is measured, how often, and what that costs.

    Args:
        cost: The cost of an update relative to one training step.
        schedule: When the weights are updated.
        step: Training steps done.
        end: Training steps at the end of the run; ``None`` if that is not known.
        has_target: Whether there is a target.
    """
    often, period = f"every {schedule.ahead(step):,} steps", float(schedule.ahead(step))
    if isinstance(schedule, BudgetedSchedule) and end is None:
        often, period = f"{often} at first and less often later", schedule.period
    elif isinstance(schedule, BudgetedSchedule) and end is not None:
        updates = schedule.updates(step, end)
        often, period = f"{updates:,.0f} times, more often at first,", (end - step) / max(updates, 1e-9)
    what = f"Aligning {cost.domains:,} domains" if has_target else "There is no target: the losses are measured"
    samples = 0 if cost.estimator == "in_step" else round(cost.domains * cost.probe_batch_size)
    return (
        f"{what} {often} by `{cost.estimator}`: {samples:,} probe and {cost.target_batch_size:,} target samples beside "
        f"{period * cost.batch_size:,.0f} training samples, about {cost.share / period:.2%} more work"
        f"{_more_than_planned(schedule, cost.share / period, end)}."
    )


def _more_than_planned(schedule: Schedule, share: float, end: float | None) -> str:
    if not isinstance(schedule, BudgetedSchedule):
        return ""
    if end is None and not schedule.min_updates:
        return ""
    if end is None:
        return f" in a run of {schedule.min_updates * schedule.period**2 / EARLY_PERIOD:,.0f} steps or more"
    if share <= 1.01 * schedule.max_overhead:
        return ""
    return f"; a longer run costs less, down to `max_overhead` {schedule.max_overhead:.2%}"
