"""Whether an iterable's own state brings it back to the very sample, and that state as a checkpoint holds it."""

import inspect
import io
import warnings
from typing import Any

import torch

from lightning_dga.data.hub_streams import holds_a_shuffle_buffer


class OwnState:
    """The state of an iterable that tells it (``state_dict()``) and takes it (``load_state_dict(state)``).

    A state that cannot be had, or that ``torch.load(weights_only=True)`` does not read back, would make the checkpoint
    useless: from then on the iterable counts as one that has none, and a resumed run reads it again from its start.

    Args:
        dataset: The iterable.
        domain: Its name, for warnings.
        is_own: Whether nobody else reads it, so that its state is that of one reader.

    Attributes:
        is_usable: Whether a state can be had.
    """

    def __init__(self, dataset: Any, domain: str, *, is_own: bool) -> None:
        self._dataset = dataset
        self._domain = domain
        self.is_usable = is_own and tells_its_state(dataset)

    def take(self) -> Any:
        """A copy of the state, ``None`` if there is none that can be used."""
        if not self.is_usable:
            return None
        try:
            file = io.BytesIO()
            torch.save({"state": self._dataset.state_dict()}, file)
            file.seek(0)
            return torch.load(file, weights_only=True)["state"]
        except Exception as error:  # whatever a user's or a library's method raises
            self.is_usable = False
            reason = (str(error) or type(error).__name__).splitlines()[0]
            warnings.warn(
                f"Domain {self._domain!r}: the state_dict() of a {type(self._dataset).__name__} cannot be kept in a "
                f"checkpoint ({type(error).__name__}: {reason}). A resumed run will read this stream again from its "
                "start. Let state_dict() return plain Python numbers, strings, containers and tensors.",
                stacklevel=2,
            )
            return None


def tells_its_state(dataset: Any) -> bool:
    """Whether an iterable has a state that is complete and can be had without arguments.

    Hugging Face's shuffle buffer is not part of its state. The states of mosaicml-streaming and of litdata have to be
    told how many samples were drawn.
    """
    if not (_can_be_called(dataset, "state_dict", 0) and _can_be_called(dataset, "load_state_dict", 1)):
        return False
    if hasattr(dataset, "documents"):
        return tells_its_state(dataset.documents)
    return not holds_a_shuffle_buffer(dataset)


def _can_be_called(dataset: Any, name: str, arguments: int) -> bool:
    method = getattr(dataset, name, None)
    if not callable(method):
        return False
    try:
        inspect.signature(method).bind(*range(arguments))
    except TypeError:
        return False
    except ValueError:  # a method of an extension that does not tell its arguments
        return True
    return True
