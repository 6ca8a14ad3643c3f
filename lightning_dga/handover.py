"""Brings a state back from the processes that a strategy starts for a run, as in notebooks, to the one that called fit.

Lightning itself brings the model's parameters and ``trainer.callback_metrics`` back.
"""

import os
import tempfile
import uuid
import weakref
from collections.abc import Callable
from multiprocessing import current_process
from pathlib import Path
from typing import Any

import torch

from lightning_dga.atomic import atomic_write


class Handover:
    """The way of an object's state from a copy of it, in a process that was started for a run, to the object itself.

    The way is a temporary file that does not exist until there is a state, and is removed when that is taken.
    """

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._file = Path(tempfile.gettempdir()) / f"lightning-dga-{uuid.uuid4().hex}.pt"
        weakref.finalize(self, _remove, self._file, self._owner)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Keeps the way in a process that is being started; any other copy is an object of its own."""
        # no public function tells it this early: `parent_process` knows only once a process runs
        if getattr(current_process(), "_inheriting", False):
            vars(self).update(state)
        else:
            self.__init__()  # type: ignore[misc]

    def give(self, trainer: Any, state: Callable[[], dict[str, Any]]) -> None:
        """Hands a state over at the end of a run; does nothing in the process that called ``fit``.

        Args:
            trainer: The trainer.
            state: Gives the state, of what ``torch.load(weights_only=True)`` reads.
        """
        if os.getpid() != self._owner and trainer.is_global_zero:
            with atomic_write(self._file) as file:
                torch.save(state(), file)

    def take(self) -> dict[str, Any] | None:
        """The state that a run has left, once; ``None`` where there is none."""
        if os.getpid() != self._owner or not self._file.exists():
            return None
        state: dict[str, Any] = torch.load(self._file, weights_only=True)
        self._file.unlink()
        return state


def _remove(file: Path, owner: int) -> None:
    if os.getpid() == owner:
        file.unlink(missing_ok=True)
