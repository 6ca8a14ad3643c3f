"""The peak of the memory that tensors hold."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_bytes(run: Callable[[], object]) -> int:
    """The most bytes that tensors hold at once while something runs, as CUDA's allocator would count them."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated()
    with _LiveBytes() as live:
        run()
    return live.most


class _LiveBytes(TorchDispatchMode):
    """Counts the storages of all tensors that operations take or make, until they are freed.

    Unlike the resident memory of the process it is the same in every run, and holds no code and no freed memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.most = self._live = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, out)):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        self.most = max(self.most, self._live)
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self._live += size
            weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._live -= size
