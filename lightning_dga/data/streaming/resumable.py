"""An iterable's own state, as stored in a checkpoint, with a test that it resumes at the right sample."""

import inspect
import io
import warnings
from copy import deepcopy
from itertools import islice
from typing import Any

import torch

from lightning_dga.data.streaming.digest import digest
from lightning_dga.data.streaming.hub_streams import holds_a_shuffle_buffer, is_hub_stream

# number of samples after a state that are compared to test whether the state resumes correctly
_COMPARED = 4


class OwnState:
    """The state of an iterable with ``state_dict()`` and ``load_state_dict(state)``.

    A state that cannot be obtained, that ``torch.load(weights_only=True)`` cannot read back, or that is found to resume
    at another sample would make the checkpoint useless: from then on the iterable is treated as one without a state,
    and a resumed run reads it again from its start.

    The state of a Hugging Face stream is tested once, because it is not complete for every chain of transformations:
    the samples after the first state are read a second time, from that state.

    Args:
        dataset: The iterable that is read.
        domain: Name of the domain, for warnings.
        original: The iterable that ``dataset`` is a copy of. If they are the same object, other readers use it too, and
            its state is not used.

    Attributes:
        is_usable: Whether a state can be obtained.
    """

    def __init__(self, dataset: Any, domain: str, original: Any) -> None:
        self._dataset = dataset
        self._domain = domain
        self._original = original
        self.is_usable = dataset is not original and has_complete_state(dataset)
        self._is_proven = not is_hub_stream(dataset)
        self._trial: tuple[dict[str, Any], list[bytes]] | None = None

    def take(self, epoch: int, read: int) -> dict[str, Any] | None:
        """The present state; ``None`` if it cannot be used, or has to be tested first.

        Args:
            epoch: Number of the pass, stored in the result.
            read: Samples read so far, stored in the result.
        """
        if not self.is_usable or self._trial is not None:
            return None
        try:
            file = io.BytesIO()
            torch.save({"state": self._dataset.state_dict()}, file)
            file.seek(0)
            state = torch.load(file, weights_only=True)["state"]
        except Exception as error:  # a method of the user or of a library may raise anything
            self._give_up(f"the state cannot be saved in a checkpoint ({type(error).__name__}: {_first_line(error)})")
            return None
        taken = {"epoch": epoch, "read": read, "dataset": state}
        if not self._is_proven:
            self._trial = taken, []
            return None
        return taken

    def follow(self, sample: Any) -> dict[str, Any] | None:
        """Records a sample that was read; returns the state under test once the test has passed."""
        if self._trial is None:
            return None
        self._trial[1].append(digest(sample))
        return self._proven() if len(self._trial[1]) == _COMPARED else None

    def end_pass(self) -> dict[str, Any] | None:
        """Records the end of a pass, which ends a test in progress; returns as :meth:`follow`."""
        return self._proven() if self._trial is not None else None

    def _proven(self) -> dict[str, Any] | None:
        assert self._trial is not None
        (taken, expected), self._trial = self._trial, None
        try:
            found = self._read_from(taken)
            # samples that differ at every reading contain random numbers and prove nothing
            if found != expected and found == self._read_from(taken):
                self._give_up("the state leads to other samples")
        except Exception as error:  # a library's method may raise anything
            self._give_up(f"the state cannot be loaded again ({type(error).__name__}: {_first_line(error)})")
        self._is_proven = True
        return taken if self.is_usable else None

    def _read_from(self, taken: dict[str, Any]) -> list[bytes]:
        dataset = deepcopy(self._original)
        if hasattr(dataset, "set_epoch"):
            dataset.set_epoch(taken["epoch"])
        dataset.load_state_dict(deepcopy(taken["dataset"]))
        return [digest(sample) for sample in islice(dataset, _COMPARED)]

    def _give_up(self, reason: str) -> None:
        self.is_usable = False
        warnings.warn(
            f"Domain {self._domain!r}, state_dict() of a {type(self._dataset).__name__}: {reason}. A resumed run will "
            "read this stream again from its start. To resume it directly, return a complete state that consists of "
            "numbers, strings, containers and tensors.",
            stacklevel=2,
        )


def _first_line(error: Exception) -> str:
    return (str(error) or "no message").splitlines()[0].split(". ")[0]


def has_complete_state(dataset: Any) -> bool:
    """Whether an iterable has a state that is complete and needs no arguments.

    Hugging Face's shuffle buffer is not part of its stream's state. The ``state_dict`` of mosaicml-streaming and of
    litdata needs the number of samples drawn as an argument.
    """
    if not (_can_be_called(dataset, "state_dict", 0) and _can_be_called(dataset, "load_state_dict", 1)):
        return False
    if hasattr(dataset, "documents"):
        return has_complete_state(dataset.documents)
    return not holds_a_shuffle_buffer(dataset)


def _can_be_called(dataset: Any, name: str, arguments: int) -> bool:
    method = getattr(dataset, name, None)
    if not callable(method):
        return False
    try:
        inspect.signature(method).bind(*range(arguments))
    except TypeError:
        return False
    except ValueError:  # a method of an extension module without an introspectable signature
        return True
    return True
