"""Transport of a batch from a worker to the training process."""

import io
import pickle
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# bytes; for larger tensors copying takes longer than sharing memory
_SMALL = 128 * 1024


class WorkerMessage:
    """Wraps an object so that it is unpickled as its content, with small tensors sent by value.

    torch sends each tensor as a shared-memory file, for which the receiver connects to a socket of the sender. For a
    batch of tokens that takes longer than all other work of the loader, and needs one file per queued tensor.

    Args:
        content: The object to send.
    """

    def __init__(self, content: Any) -> None:
        self._content = content

    def __reduce__(self) -> tuple[Any, ...]:
        message = io.BytesIO()
        _Pickler(message, pickle.HIGHEST_PROTOCOL).dump(self._content)
        return pickle.loads, (message.getvalue(),)


class _Pickler(ForkingPickler):
    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is Tensor and _goes_by_value(obj):
            return _rebuild, (obj.view(-1).view(torch.uint8).numpy(), obj.dtype, obj.shape)
        return NotImplemented


def _goes_by_value(tensor: Tensor) -> bool:
    plain = tensor.device.type == "cpu" and tensor.layout == torch.strided and not tensor.is_nested
    own = not (tensor.requires_grad or tensor.is_conj() or tensor.is_neg())
    return plain and own and 0 < tensor.nbytes <= _SMALL and tensor.is_contiguous()


def _rebuild(data: NDArray[np.uint8], dtype: torch.dtype, shape: torch.Size) -> Tensor:
    return torch.from_numpy(data).view(dtype).view(shape)
