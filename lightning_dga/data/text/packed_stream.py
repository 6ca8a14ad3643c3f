"""Documents to training samples while they are read: tokenised, joined, and cut to windows of one length."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset
from typing_extensions import override

from lightning_dga.data.text.encoder import DocumentEncoder
from lightning_dga.data.text.packing import separate_documents

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from lightning_dga.data.text.encoder import TokenizerLike


class PackedStream(IterableDataset[Tensor]):
    """The windows of a stream of documents, an iterable that can be split and that resumes where its documents do.

    Every document is followed by ``end_of_text``, an empty one too. A window starts with the last token of the one
    before it, so that each token but the first is predicted once. At the end of a pass, tokens that fill no window are
    dropped.

    Args:
        documents: An iterable of strings, such as :class:`~lightning_dga.data.text.DocumentStream`, or of records that
            hold them, such as a Hugging Face data set.
        tokenizer: What encodes them: a ``tokenizers.Tokenizer``, a fast tokenizer of ``transformers``, or the path of a
            ``tokenizer.json`` (:class:`~.encoder.DocumentEncoder`, also of how it is used).
        context_length: Tokens that a window predicts.
        field: The key that holds a record's text.
        end_of_text: The separator, a token or its id; by default the one that the tokenizer has for it.
        cross_document_targets: As of :class:`~lightning_dga.data.text.PackedTokens`.

    Raises:
        ValueError: If ``context_length`` is not positive.
        DataError: If the tokenizer has no separator that is known, or cannot be read.
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
        self._left = np.empty(0, dtype=np.uint32)

    @property
    def tokenizer(self) -> "Tokenizer":
        """What encodes the documents: a copy of what was given, which neither truncates nor pads."""
        return self.encoder.tokenizer

    @property
    def num_shards(self) -> int:
        """Into how many shards its documents can be split."""
        return int(getattr(self.documents, "num_shards", 1))

    def shard(self, num_shards: int, index: int) -> "PackedStream":
        """The windows of one shard of the documents."""
        return PackedStream(
            self.documents.shard(num_shards=num_shards, index=index),
            self.encoder,
            self.context_length,
            field=self.field,
            cross_document_targets=self.cross_document_targets,
        )

    def set_epoch(self, epoch: int) -> None:
        """Says which pass the next iteration is."""
        if hasattr(self.documents, "set_epoch"):
            self.documents.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where the iteration is: the documents' state, and the tokens of them that were not given yet."""
        return {"documents": self.documents.state_dict(), "left": torch.from_numpy(self._left.astype(np.int64))}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Makes the next iteration begin where the state was taken."""
        self.documents.load_state_dict(state_dict["documents"])
        self._left = state_dict["left"].numpy().astype(np.uint32)

    @override
    def __iter__(self) -> Iterator[Any]:
        tokens, self._left = self._left, self._left[:0]
        documents = iter(self.documents)
        while True:
            while len(tokens) > self.context_length:
                window, tokens = tokens[: self.context_length + 1], tokens[self.context_length :]
                self._left = tokens
                sample = torch.from_numpy(window.astype(np.int64))
                yield sample if self.cross_document_targets else separate_documents(sample, self.end_of_text)
            document = next(documents, None)
            if document is None:
                self._left = tokens[:0]
                return
            text = document if isinstance(document, str) else document[self.field]
            ids = [*self.encoder.encode(text), self.end_of_text]
            tokens = np.concatenate([tokens, np.array(ids, dtype=np.uint32)])
