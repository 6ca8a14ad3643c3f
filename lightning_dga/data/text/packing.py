"""Documents to training samples: joined, and cut to windows of one length."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override


def pack(
    token_ids: Iterable[Sequence[int] | NDArray[np.integer]], context_length: int, end_of_text: int
) -> NDArray[np.integer]:
    """Joins documents and cuts the result to windows.

    Every document is followed by ``end_of_text``. A window starts with the last token of the one before it, so that
    each token but the first is predicted exactly once. Tokens at the end that do not fill a window are dropped, at most
    ``context_length - 1`` of them where there is a window.

    Args:
        token_ids: Token ids of each document.
        context_length: Tokens that a window predicts.
        end_of_text: Id of the separator.

    Returns:
        ``[n, context_length + 1]``, uint16 where the ids fit, else uint32; ``n`` is 0 where there are too few tokens.

    Raises:
        ValueError: If ``context_length`` is not positive, or an id is negative or does not fit uint32.

    Example:
        >>> pack([[5, 6, 7], [8, 9]], context_length=2, end_of_text=0)
        array([[5, 6, 7],
               [7, 0, 8],
               [8, 9, 0]], dtype=uint16)
    """
    if context_length < 1:
        raise ValueError(f"`context_length` must be at least 1, got {context_length}.")
    separator = np.array([end_of_text], dtype=np.min_scalar_type(end_of_text))
    pieces = [piece for ids in token_ids for piece in (_as_array(ids), separator)]
    stream = np.concatenate(pieces) if pieces else separator[:0]
    stream = stream.astype(token_dtype(stream))
    if len(stream) <= context_length:
        return np.empty((0, context_length + 1), dtype=stream.dtype)
    windows = np.lib.stride_tricks.sliding_window_view(stream, context_length + 1)[::context_length]
    return np.ascontiguousarray(windows)


def token_dtype(token_ids: NDArray[np.integer]) -> type[np.uint16] | type[np.uint32]:
    """The smallest of uint16 and uint32 that holds all of ``token_ids``.

    Raises:
        ValueError: If neither does.
    """
    low, high = (int(token_ids.min()), int(token_ids.max())) if token_ids.size else (0, 0)
    if low < 0 or high > np.iinfo(np.uint32).max:
        raise ValueError(f"Token ids must be between 0 and 2**32 - 1, got {low} to {high}.")
    return np.uint16 if high <= np.iinfo(np.uint16).max else np.uint32


def _as_array(token_ids: Sequence[int] | NDArray[np.integer]) -> NDArray[np.integer]:
    # arrays keep their own type: a large corpus would take four times its memory as int64
    return token_ids if isinstance(token_ids, np.ndarray) else np.asarray(token_ids, dtype=np.int64)


class PackedTokens(Dataset[Tensor]):
    """A map-style data set of the windows that :func:`pack` made.

    Args:
        windows: ``[n, context_length + 1]`` integers, or a ``.npy`` file of them. A file is memory-mapped, and worker
            processes open it themselves instead of getting a copy.

    Raises:
        ValueError: If ``windows`` is not such an array.

    Example:
        >>> PackedTokens(pack([[5, 6, 7]], context_length=3, end_of_text=0))[0]
        tensor([5, 6, 7, 0])
    """

    def __init__(self, windows: NDArray[np.integer] | str | Path) -> None:
        self._source = windows
        self._windows: NDArray[np.integer] = (
            np.load(windows, mmap_mode="r", allow_pickle=False) if isinstance(windows, str | Path) else windows
        )
        shape, dtype = self._windows.shape, self._windows.dtype
        if len(shape) != 2 or shape[1] < 2 or not np.issubdtype(dtype, np.integer):
            raise ValueError(
                f"`windows` must be integers of shape [n, context_length + 1], got {dtype} of shape {shape}."
            )

    def __len__(self) -> int:
        """Number of windows."""
        return len(self._windows)

    @override
    def __getitem__(self, index: int) -> Tensor:
        """One window, ``[context_length + 1]`` int64."""
        return torch.from_numpy(self._windows[index].astype(np.int64))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._source,)

    @property
    def tokens(self) -> int:
        """Tokens that the windows predict, each once: ``n * context_length``."""
        return len(self._windows) * (self._windows.shape[1] - 1)
