"""Ends a run that was given no limit, as early stopping or an impatient user would."""

from typing import Any

import lightning as L
from typing_extensions import override


class StopAt(L.Callback):
    """Asks the Trainer to stop after some steps, of which nothing else knows.

    Args:
        step: Optimizer steps.
    """

    def __init__(self, step: int) -> None:
        self.step = step

    @override
    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        trainer.should_stop = trainer.global_step >= self.step
