"""Packs documents: joins them, and cuts the result into windows of fixed length."""

from collections.abc import Iterable, Sequence
from functools import partial
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
    """Joins documents and cuts the result into windows.

    Every document is followed by ``end_of_text``. A window starts with the last token of the one before it, so that
    each token but the first is predicted exactly once. Tokens at the end that do not fill a window are dropped: at
    most ``context_length - 1``, if there is a window at all.

    Args:
        token_ids: Token ids of each document.
        context_length: Tokens that a window predicts.
        end_of_text: Id of the separator.

    Returns:
        ``[n, context_length + 1]``, uint16 if the ids fit, else uint32; ``n`` is 0 if there are too few tokens.

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


def separate_documents(window: Tensor, end_of_text: int) -> dict[str, Tensor]:
    """Splits a window into inputs and targets such that no target belongs to another document than its input.

    Args:
        window: Token ids, ``[..., context_length + 1]`` int64, in which every document is followed by ``end_of_text``.
        end_of_text: Id of the separator.

    Returns:
        ``inputs`` and ``targets``, ``[..., context_length]`` int64, where the target at the start of a document is
        -100, which torch's cross entropy ignores; and ``documents``, of the same shape, the number of each input's
        document, from 0. The attention mask ``documents[..., :, None] == documents[..., None, :]`` keeps attention
        within documents.

    Example:
        >>> separate_documents(torch.tensor([5, 6, 0, 7, 8]), end_of_text=0)["targets"]
        tensor([   6,    0, -100,    8])
    """
    inputs, targets = window[..., :-1], window[..., 1:]
    ends = inputs == end_of_text
    return {
        "inputs": inputs,
        "targets": torch.where(ends, -100, targets),
        # a separator belongs to the document before it
        "documents": ends.cumsum(-1) - ends.long(),
    }


def token_dtype(token_ids: NDArray[np.integer]) -> type[np.uint16] | type[np.uint32]:
    """uint16 if it holds all of ``token_ids``, else uint32.

    Raises:
        ValueError: If neither does.
    """
    low, high = (int(token_ids.min()), int(token_ids.max())) if token_ids.size else (0, 0)
    if low < 0 or high > np.iinfo(np.uint32).max:
        raise ValueError(f"Token ids must be between 0 and 2**32 - 1, got {low} to {high}.")
    return np.uint16 if high <= np.iinfo(np.uint16).max else np.uint32


def _as_array(token_ids: Sequence[int] | NDArray[np.integer]) -> NDArray[np.integer]:
    # arrays keep their dtype: as int64, a large corpus would take up to four times the memory
    return token_ids if isinstance(token_ids, np.ndarray) else np.asarray(token_ids, dtype=np.int64)


class PackedTokens(Dataset[Tensor]):
    """A map-style data set of windows made by :func:`pack`.

    Args:
        windows: ``[n, context_length + 1]`` integers, or a ``.npy`` file of them. A file is memory-mapped, and worker
            processes open it themselves instead of getting a copy.
        end_of_text: Id of the separator; required if ``cross_document_targets`` is false.
        cross_document_targets: Whether the last token of a document predicts the first of the next. If not, a sample is
            the result of :func:`separate_documents`, which also has the document numbers for an attention mask.

    Raises:
        ValueError: If ``windows`` is not such an array, or ``end_of_text`` is required and missing.

    Example:
        >>> PackedTokens(pack([[5, 6, 7]], context_length=3, end_of_text=0))[0]
        tensor([5, 6, 7, 0])
    """

    def __init__(
        self,
        windows: NDArray[np.integer] | str | Path,
        *,
        end_of_text: int | None = None,
        cross_document_targets: bool = True,
    ) -> None:
        if end_of_text is None and not cross_document_targets:
            raise ValueError("`cross_document_targets=False` needs `end_of_text`, the separator's id.")
        self._arguments = (windows, end_of_text, cross_document_targets)
        self._separator = None if cross_document_targets else end_of_text
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
    def __getitem__(self, index: int) -> Any:
        """One window, ``[context_length + 1]`` int64, or its inputs and targets."""
        window = torch.from_numpy(self._windows[index].astype(np.int64))
        return window if self._separator is None else separate_documents(window, self._separator)

    def __reduce__(self) -> tuple[Any, ...]:
        windows, end_of_text, cross_document_targets = self._arguments
        again = partial(type(self), end_of_text=end_of_text, cross_document_targets=cross_document_targets)
        return again, (windows,)

    @property
    def tokens(self) -> int:
        """Number of tokens that the windows predict: ``n * context_length``."""
        return len(self._windows) * (self._windows.shape[1] - 1)
