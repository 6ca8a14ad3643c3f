"""Streams documents as training samples: tokenised, joined, and cut into windows of fixed length."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset
from typing_extensions import override

from lightning_dga.data.errors import DataError
from lightning_dga.data.streaming.resumable import has_complete_state
from lightning_dga.data.text.tokens.encoder import DocumentEncoder
from lightning_dga.data.text.tokens.packing import separate_documents

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from lightning_dga.data.text.tokens.encoder import TokenizerLike

# maximum number of documents that are read again, without encoding, to return to a position
_ANCHOR_EVERY = 16
_KEYS_SHOWN = 12


class PackedStream(IterableDataset[Tensor]):
    """The windows of a stream of documents; can be sharded and resumed if the documents can.

    Every document, even an empty one, is followed by ``end_of_text``. A window starts with the last token of the one
    before it, so that each token but the first is predicted once. At the end of an epoch, tokens that do not fill a
    window are dropped.

    A document is encoded as a whole. The state does not contain documents: a resumed run reads and encodes the current
    one again.

    Args:
        documents: An iterable of strings, such as :class:`~lightning_dga.data.text.DocumentStream`, or of records that
            hold them, such as a Hugging Face data set.
        tokenizer: A ``tokenizers.Tokenizer``, a fast tokenizer of ``transformers``, or the path of a
            ``tokenizer.json``; :class:`~.encoder.DocumentEncoder` describes how it is used.
        context_length: Tokens that a window predicts.
        field: The key that holds a record's text.
        end_of_text: The separator, a token or its id; by default the tokenizer's own.
        cross_document_targets: See :class:`~lightning_dga.data.text.PackedTokens`.

    Raises:
        ValueError: If ``context_length`` is not positive.
        DataError: If the tokenizer cannot be read, or has no known separator. A record without text raises it when it
            is reached.
    """

    def __init__(
        self,
        documents: Any,
        tokenizer: "TokenizerLike",
        context_length: int,
        *,
        field: str = "text",
        end_of_text: int | str | None = None,
        cross_document_targets: bool = True,
    ) -> None:
        if context_length < 1:
            raise ValueError(f"`context_length` must be at least 1, got {context_length}.")
        self.documents = documents
        self.encoder = DocumentEncoder(tokenizer, end_of_text)
        self.context_length = context_length
        self.field = field
        self.end_of_text = self.encoder.end_of_text
        self.cross_document_targets = cross_document_targets
        self._place = _Place()

    @property
    def tokenizer(self) -> "Tokenizer":
        """The tokenizer of the documents: a copy of the one given, without truncation and padding."""
        return self.encoder.tokenizer

    @property
    def num_shards(self) -> int:
        """Number of shards into which its documents can be split."""
        return int(getattr(self.documents, "num_shards", 1))

    @property
    def size_hint(self) -> float | None:
        """Approximate size of its documents, if they report one."""
        hint: float | None = getattr(self.documents, "size_hint", None)
        return hint

    def shard(self, num_shards: int, index: int) -> "PackedStream":
        """The windows of one shard of the documents."""
        part = object.__new__(type(self))
        documents = self.documents.shard(num_shards=num_shards, index=index)
        part.__dict__.update(self.__dict__, documents=documents, _place=_Place())
        return part

    def set_epoch(self, epoch: int) -> None:
        """Sets the number of the epoch for the next iteration."""
        if hasattr(self.documents, "set_epoch"):
            self.documents.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """The position of the iteration: a state of the documents, and the documents and tokens used since."""
        return self._place.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Makes the next iteration start from the state."""
        self._place = _Place.from_state_dict(state_dict)
        if self._place.anchor is not None:
            self.documents.load_state_dict(self._place.anchor)

    def __deepcopy__(self, memo: dict[int, Any]) -> "PackedStream":
        copy = object.__new__(type(self))
        memo[id(self)] = copy
        # shared, because a tokenizer is not modified here, and a copy per reader of each shard would take much memory
        memo[id(self.encoder)] = self.encoder
        copy.__dict__.update(deepcopy(self.__dict__, memo))
        return copy

    @override
    def __iter__(self) -> Iterator[Any]:
        place, self._place = self._place, _Place()
        for document in islice(self.documents, place.skip, None):
            ids = [*self.encoder.encode(self._text(document)), self.end_of_text]
            tokens = np.concatenate([place.left, np.array(ids[place.given :], dtype=np.uint32)])
            own, place = len(place.left), replace(place, left=tokens[:0])
            # views of one array, so that a long document is not copied for each window
            for start in range(0, len(tokens) - self.context_length, self.context_length):
                behind = start + self.context_length
                given = place.given + max(behind - own, 0)
                self._place = replace(place, left=tokens[behind:own], given=given)
                sample = torch.from_numpy(tokens[start : behind + 1].astype(np.int64))
                yield sample if self.cross_document_targets else separate_documents(sample, self.end_of_text)
            windows = max(len(tokens) - 1, 0) // self.context_length
            place = self._behind(replace(place, left=tokens[windows * self.context_length :].copy(), given=0))
        self._place = _Place()

    def _text(self, document: Any) -> str:
        if isinstance(document, str):
            return document
        if not isinstance(document, Mapping):
            raise DataError(
                f"A document is of type {type(document).__name__}, expected a string or a record that has one."
            )
        if self.field not in document:
            found = ", ".join(map(repr, [*document][:_KEYS_SHOWN])) or "an empty one"
            raise DataError(
                f"A record has no {self.field!r}; found {found}. Name the key that holds the text with `field`."
            )
        text = document[self.field]
        if not isinstance(text, str):
            raise DataError(f"{self.field!r} of a record is of type {type(text).__name__}, expected a string.")
        return text

    def _behind(self, place: "_Place") -> "_Place":
        """The position after a document: either one more to skip, or a new state of the documents and none to skip."""
        if place.skip + 1 < _ANCHOR_EVERY or not has_complete_state(self.documents):
            return replace(place, skip=place.skip + 1)
        return replace(place, skip=0, anchor=deepcopy(self.documents.state_dict()))


@dataclass(frozen=True)
class _Place:
    """A position in a stream of documents.

    Attributes:
        anchor: A state of the documents; ``None`` for their start.
        skip: Number of documents after the anchor whose tokens were all used.
        left: Tokens before the next document that are still to be used, fewer than a window.
        given: Number of tokens of the next document that were used already.
    """

    anchor: Any = None
    skip: int = 0
    left: NDArray[np.uint32] = field(default_factory=lambda: np.empty(0, dtype=np.uint32))
    given: int = 0

    def state_dict(self) -> dict[str, Any]:
        left = torch.from_numpy(self.left.astype(np.int64))
        return {"documents": self.anchor, "skip": self.skip, "left": left, "given": self.given}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "_Place":
        # older states have only the remaining tokens, of any length, after a state of the documents
        left = state["left"].numpy().astype(np.uint32)
        return cls(state["documents"], int(state.get("skip", 0)), left, int(state.get("given", 0)))
