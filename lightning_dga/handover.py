"""Returns a state from processes that a strategy spawns for a run, as in notebooks, to the process that called ``fit``.

Lightning itself returns the model's parameters and ``trainer.callback_metrics``.
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
    """Transfers an object's state from its copy in a spawned process back to the object itself.

    The state is written to a temporary file, which is removed when the state is taken.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._owner = os.getpid()
        self._file = Path(tempfile.gettempdir()) / f"lightning-dga-{uuid.uuid4().hex}.pt"
        weakref.finalize(self, _remove, self._file, self._owner)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Keeps the path of the file in a process that is being spawned; any other copy gets a path of its own."""
        # no public function reports this so early: `parent_process` is set only once the process runs
        if getattr(current_process(), "_inheriting", False):
            vars(self).update(state)
        else:
            self._begin()

    def give(self, trainer: Any, state: Callable[[], dict[str, Any]]) -> None:
        """Hands a state over at the end of a run; does nothing in the process that called ``fit``.

        Args:
            trainer: The trainer.
            state: Returns the state, of types that ``torch.load(weights_only=True)`` can read.
        """
        if os.getpid() != self._owner and trainer.is_global_zero:
            with atomic_write(self._file) as file:
                torch.save(state(), file)

    def take(self) -> dict[str, Any] | None:
        """Returns the state that a run has left, and removes it; ``None`` if there is none."""
        if os.getpid() != self._owner or not self._file.exists():
            return None
        state: dict[str, Any] = torch.load(self._file, weights_only=True)
        self._file.unlink()
        return state


def _remove(file: Path, owner: int) -> None:
    if os.getpid() == owner:
        file.unlink(missing_ok=True)
