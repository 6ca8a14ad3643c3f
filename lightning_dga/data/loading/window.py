"""Gradient accumulation and checkpoints: a resumed run takes the whole window of batches again."""

from typing import Any


class AccumulationWindow:
    """Remembers where the batches of an optimizer step begin.

    No checkpoint holds the gradients that were accumulated when it was saved. So one that falls between two optimizer
    steps holds the stream as it was behind the last of them, and the run that resumes takes those batches again.
    """

    def __init__(self) -> None:
        self._start = 0
        self._state: dict[str, Any] | None = None

    def before_batch(self, trainer: Any, state: Any) -> None:
        """To be called before each batch is handed to training.

        Args:
            trainer: The Trainer.
            state: Gives the state that a checkpoint would hold now; asked where a window begins.
        """
        if not _accumulates(trainer):
            self._state = None
        elif _done(trainer) % trainer.accumulate_grad_batches == 0:
            self._start, self._state = _done(trainer), state()

    def state(self, trainer: Any) -> dict[str, Any] | None:
        """The state at the begin of the window that training is in; ``None`` between two windows.

        Its ``"again"`` says how many batches of the window were trained on.
        """
        if self._state is None or trainer is None or not _accumulates(trainer):
            return None
        done = _done(trainer)
        closed = done % trainer.accumulate_grad_batches == 0 or done >= trainer.num_training_batches
        return None if closed else self._state | {"again": done - self._start}


def take_again(trainer: Any, batches: int) -> None:
    """Sets the Trainer's count of batches back, while it resumes; each epoch then has as many as it should."""
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
