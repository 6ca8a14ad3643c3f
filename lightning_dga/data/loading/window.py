"""Gradient accumulation and checkpoints: a resumed run repeats the whole accumulation window."""

from typing import Any


class AccumulationWindow:
    """Remembers the state at the first batch of each accumulation window.

    A checkpoint does not contain accumulated gradients. So a checkpoint taken inside a window contains the state of the
    stream right after the last optimizer step, and the resumed run repeats the batches of the window.
    """

    def __init__(self) -> None:
        self._start = 0
        self._state: dict[str, Any] | None = None

    def before_batch(self, trainer: Any, state: Any) -> None:
        """Must be called before each batch is handed to training.

        Args:
            trainer: The Trainer.
            state: Returns the state that a checkpoint would contain now; called at the start of a window.
        """
        if not _accumulates(trainer):
            self._state = None
        elif _done(trainer) % trainer.accumulate_grad_batches == 0:
            self._start, self._state = _done(trainer), state()

    def state(self, trainer: Any) -> dict[str, Any] | None:
        """The state at the start of the window that training is in; ``None`` between two windows.

        Its entry ``"again"`` is the number of batches of the window that were trained on.
        """
        if self._state is None or trainer is None or not _accumulates(trainer):
            return None
        done = _done(trainer)
        closed = done % trainer.accumulate_grad_batches == 0 or done >= trainer.num_training_batches
        return None if closed else self._state | {"again": done - self._start}


def take_again(trainer: Any, batches: int) -> None:
    """Lowers the Trainer's batch counts on resume, so that every epoch has its full number of batches."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress
    start = max(progress.current.processed - batches, 0)
    for name in ("ready", "started", "processed", "completed"):
        surplus = getattr(progress.current, name) - start
        setattr(progress.current, name, start)
        setattr(progress.total, name, getattr(progress.total, name) - surplus)


def _accumulates(trainer: Any) -> bool:
    automatic = trainer.lightning_module is not None and trainer.lightning_module.automatic_optimization
    return automatic and trainer.accumulate_grad_batches > 1


def _done(trainer: Any) -> int:
    return int(trainer.fit_loop.epoch_loop.batch_progress.current.processed)
