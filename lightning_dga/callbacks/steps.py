"""Training steps, the unit that a reweighting period is counted in."""

from typing import Any


class TrainingSteps:
    """Counts the batches after which the model has changed: those that ended in a step of one or more optimizers.

    ``trainer.global_step`` counts the steps of each optimizer. Under automatic optimization, which has one, the two are
    the same; a module that steps two optimizers by hand in every batch has done half as many training steps.

    Args:
        counted: What :meth:`state` gave in the run that is resumed, if there is one.

    Attributes:
        done: Training steps done so far.
    """

    def __init__(self, counted: tuple[int, int] | None = None) -> None:
        self._known = counted is not None
        self.done, self._optimizer_steps = counted or (0, 0)

    @property
    def state(self) -> tuple[int, int]:
        """Training steps done, and ``trainer.global_step`` when they were counted."""
        return self.done, self._optimizer_steps

    def start(self, trainer: Any, pl_module: Any) -> None:
        """Takes up the count where a run starts, goes on or resumes.

        A checkpoint may have been written after an optimizer step and before :meth:`after_batch`.
        """
        step = trainer.global_step
        if not self._known or step < self._optimizer_steps:
            self.done, self._optimizer_steps = trainer.fit_loop.epoch_loop._batches_that_stepped, step
        self._known = True
        self.after_batch(trainer, pl_module)

    def after_batch(self, trainer: Any, pl_module: Any) -> bool:
        """Counts the batch that is over; returns whether it ended in an optimizer step."""
        step = trainer.global_step
        stepped = step > self._optimizer_steps
        self.done = step if pl_module.automatic_optimization else self.done + stepped
        self._optimizer_steps = step
        return bool(stepped)
