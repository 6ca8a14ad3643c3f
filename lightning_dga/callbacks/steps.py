"""Training steps, the unit of the reweighting period."""

from typing import Any


class TrainingSteps:
    """Counts training steps: batches that ended in a step of one or more optimizers.

    ``trainer.global_step`` counts the steps of every optimizer. Under automatic optimization, with its one optimizer,
    the two counts are equal; a module that steps two optimizers by hand in every batch has half as many training steps.

    Args:
        counted: :attr:`state` of the run that is resumed, if there is one.

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
        """Continues the count when a run starts, continues or resumes.

        A checkpoint may have been written after an optimizer step and before :meth:`after_batch`.
        """
        step = trainer.global_step
        if not self._known or step < self._optimizer_steps:
            self.done, self._optimizer_steps = trainer.fit_loop.epoch_loop._batches_that_stepped, step
        self._known = True
        self.after_batch(trainer, pl_module)

    def after_batch(self, trainer: Any, pl_module: Any) -> bool:
        """Counts the batch that has just ended; returns whether it ended in an optimizer step."""
        step = trainer.global_step
        stepped = step > self._optimizer_steps
        self.done = step if pl_module.automatic_optimization else self.done + stepped
        self._optimizer_steps = step
        return bool(stepped)
