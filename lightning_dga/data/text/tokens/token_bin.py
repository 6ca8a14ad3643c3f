"""Token ids on disk: a file of a domain's documents, memory-mapped, and the windows that training reads from it."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override

from lightning_dga.atomic import write_json
from lightning_dga.data.errors import DataError
from lightning_dga.data.text.tokens.packing import separate_documents

BIN, DESCRIPTION = ".bin", ".bin.json"


@dataclass(frozen=True)
class BinDescription:
    """The description written beside a file of token ids.

    Attributes:
        tokens: Number of tokens, including separators.
        dtype: ``"uint16"`` or ``"uint32"``, little-endian.
        end_of_text: Id of the separator that follows every document.
        tokenizer: SHA-256 of the tokenizer's file.
    """

    tokens: int
    dtype: str
    end_of_text: int
    tokenizer: str

    def write(self, file: Path) -> None:
        """Writes the description beside the file of token ids, which marks that file as complete."""
        write_json(file.with_suffix(DESCRIPTION), asdict(self))

    @classmethod
    def read(cls, file: Path) -> "BinDescription":
        """Reads the description of a file.

        Raises:
            DataError: If it is missing or cannot be read, or the file does not have the described length.
        """
        beside = file.with_suffix(DESCRIPTION)
        try:
            fields: Mapping[str, Any] = json.loads(beside.read_text(encoding="utf-8"))
            found = cls(**fields)
            size = file.stat().st_size
        except FileNotFoundError as error:
            raise DataError(f"There is no {error.filename}; make it with `dga-domains tokenize`.") from error
        except (ValueError, TypeError) as error:
            raise DataError(f"{beside}: not a description of token ids ({error}).") from error
        if found.dtype not in ("uint16", "uint32"):
            raise DataError(f"{beside}: `dtype` is {found.dtype!r}, expected 'uint16' or 'uint32'.")
        expected = found.tokens * np.dtype(found.dtype).itemsize
        if size != expected:
            raise DataError(
                f"{file}: {size} bytes, expected {expected}; it is truncated, or not the one described. Make it "
                "again with `dga-domains tokenize`."
            )
        return found


class TokenBin(Dataset[Tensor]):
    """The windows of a memory-mapped file of token ids, of any size, shared by all processes of a machine.

    Window ``i`` predicts tokens ``i * context_length + 1`` to ``(i + 1) * context_length``, so each token but the first
    is predicted once; tokens at the end that do not fill a window are dropped.

    Args:
        file: A ``.bin`` file written by ``dga-domains tokenize``, with its description beside it.
        context_length: Tokens that a window predicts.
        cross_document_targets: See :class:`~lightning_dga.data.text.PackedTokens`.

    Raises:
        DataError: If the file is missing, truncated, or too short for one window.
        ValueError: If ``context_length`` is not positive.
    """

    def __init__(self, file: str | Path, context_length: int, *, cross_document_targets: bool = True) -> None:
        if context_length < 1:
            raise ValueError(f"`context_length` must be at least 1, got {context_length}.")
        self.file = Path(file)
        self.context_length = context_length
        self.cross_document_targets = cross_document_targets
        self.description = BinDescription.read(self.file)
        if self.description.tokens <= context_length:
            raise DataError(
                f"{self.file}: {self.description.tokens} tokens, too few for one window of {context_length + 1}; give "
                "it more text, or lower `context_length`."
            )
        self._tokens = map_tokens(self.file, self.description)

    def __len__(self) -> int:
        """Number of windows."""
        return (self.description.tokens - 1) // self.context_length

    @override
    def __getitem__(self, index: int) -> Any:
        """One window, ``[context_length + 1]`` int64, or its inputs and targets."""
        if not 0 <= index < len(self):
            raise IndexError(f"Window {index} of {len(self)}.")
        start = index * self.context_length
        window = torch.from_numpy(self._tokens[start : start + self.context_length + 1].astype(np.int64))
        return window if self.cross_document_targets else separate_documents(window, self.description.end_of_text)

    def __reduce__(self) -> tuple[Any, ...]:
        # a worker process that is not forked maps the file itself instead of getting a copy
        again = partial(type(self), cross_document_targets=self.cross_document_targets)
        return again, (self.file, self.context_length)


def map_tokens(file: Path, description: BinDescription) -> NDArray[np.integer]:
    """The token ids of a file, memory-mapped, ``[tokens]``."""
    if not os.path.getsize(file):
        return np.empty(0, dtype=description.dtype)
    return np.memmap(file, dtype=np.dtype(description.dtype).newbyteorder("<"), mode="r")


def read_documents(file: Path) -> Iterator[NDArray[np.integer]]:
    """The token ids of each document of a file, without its separator."""
    description = BinDescription.read(file)
    tokens = map_tokens(file, description)
    start = 0
    for end in np.flatnonzero(tokens == description.end_of_text).tolist():
        yield np.array(tokens[start:end])
        start = end + 1
