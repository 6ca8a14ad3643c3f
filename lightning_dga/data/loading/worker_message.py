"""Transport of a batch from a worker to the training process."""

import io
import os
import pickle
from collections import deque
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# bytes; for larger tensors copying takes longer than opening shared memory, and than sharing it through a socket
_SMALL, _SMALL_FOR_SOCKET = 48 * 1024, 128 * 1024


class WorkerMessage:
    """Wraps an object so that it is unpickled as its content, with tensors sent at little cost.

    torch sends each tensor as a shared-memory file, for which the receiver connects to a socket of the sender. For a
    batch of tokens that takes longer than all other work of the loader, and needs one file per queued tensor. Here
    small tensors are sent by value, and the receiver opens the file of a larger one through the sender's
    ``/proc/<pid>/fd``, where the system has it.

    Args:
        content: The object to send.
        kept: Where the sender keeps the shared memory until the receiver has surely opened it; as torch does if not
            given.
    """

    def __init__(self, content: Any, kept: deque[list[Any]] | None = None) -> None:
        self._content = content
        self._kept = kept

    def __reduce__(self) -> tuple[Any, ...]:
        message = io.BytesIO()
        pickler = _Pickler(message, pickle.HIGHEST_PROTOCOL)
        pickler.shared = None if self._kept is None else []
        pickler.dump(self._content)
        if self._kept is not None:
            self._kept.append(pickler.shared or [])
        return pickle.loads, (message.getvalue(),)


class MessageSender:
    """Sends batches from one worker; a ``collate_fn``.

    Args:
        outstanding: Maximum number of batches that a worker was asked for and the training process has not received.
    """

    def __init__(self, outstanding: int) -> None:
        # a worker starts on a batch only when the training process has received all but the last `outstanding`
        self._kept: deque[list[Any]] = deque(maxlen=outstanding)
        self._can_be_opened: bool | None = None

    def __call__(self, content: Any) -> WorkerMessage:
        """Wraps a batch."""
        if self._can_be_opened is None:
            self._can_be_opened = torch.multiprocessing.get_sharing_strategy() == "file_descriptor" and _sees_parent()
        return WorkerMessage(content, self._kept if self._can_be_opened else None)


class _Pickler(ForkingPickler):
    shared: list[Any] | None = None

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is not Tensor or not _is_plain(obj):
            return NotImplemented
        if obj.nbytes <= (_SMALL_FOR_SOCKET if self.shared is None else _SMALL):
            return _rebuild, (obj.view(-1).view(torch.uint8).numpy(), obj.dtype, obj.shape)
        storage: Any = obj.untyped_storage()
        if self.shared is None or storage.nbytes() != obj.nbytes:
            return NotImplemented
        file, size = storage._share_fd_cpu_()
        self.shared.append(storage)
        return _open, (f"/proc/{os.getpid()}/fd/{file}", size, obj.dtype, obj.shape)


def _sees_parent() -> bool:
    """Whether this process may open its parent's files, and so the parent may open its."""
    try:
        os.readlink(f"/proc/{os.getppid()}/exe")
    except OSError:
        return False
    return True


def _is_plain(tensor: Tensor) -> bool:
    plain = tensor.device.type == "cpu" and tensor.layout == torch.strided and not tensor.is_nested
    own = not (tensor.requires_grad or tensor.is_conj() or tensor.is_neg())
    return plain and own and tensor.nbytes > 0 and tensor.is_contiguous()


def _open(path: str, size: int, dtype: torch.dtype, shape: torch.Size) -> Tensor:
    file = os.open(path, os.O_RDWR)
    try:
        storage: Any = torch.UntypedStorage
        return torch.empty(0, dtype=dtype).set_(storage._new_shared_fd_cpu(file, size)).view(shape)
    finally:
        os.close(file)


def _rebuild(data: NDArray[np.uint8], dtype: torch.dtype, shape: torch.Size) -> Tensor:
    return torch.from_numpy(data).view(dtype).view(shape)
