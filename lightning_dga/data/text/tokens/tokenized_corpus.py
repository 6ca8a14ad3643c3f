"""Tokenizes a corpus: trains the tokenizer, and encodes every document with it."""

import hashlib
import logging
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lightning_dga.atomic import write_arrays
from lightning_dga.data.errors import DataError
from lightning_dga.data.text.corpus import TextCorpus
from lightning_dga.data.text.tokens.packing import token_dtype
from lightning_dga.data.text.tokens.tokenizer import load_tokenizer, tokenizers_library, train_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_logger = logging.getLogger(__name__)

_HELD_OUT = ("target", "val", "test")
_DOCUMENTS_AT_ONCE = 1000
_DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)


class TokenizedDocuments:
    """Token ids of documents, stored in one array.

    Args:
        tokens: The documents one after the other, ``[tokens]`` uint16 or uint32.
        ends: End of each document in ``tokens``, ``[documents]`` int64.
    """

    def __init__(self, tokens: NDArray[np.integer], ends: NDArray[np.int64]) -> None:
        self.tokens = tokens
        self.ends = ends

    def __len__(self) -> int:
        """Number of documents."""
        return len(self.ends)

    def __getitem__(self, index: int) -> NDArray[np.integer]:
        """Token ids of a document, a view."""
        if not 0 <= index < len(self.ends):
            raise IndexError(f"Document {index} of {len(self.ends)}.")
        start = self.ends[index - 1] if index else 0
        return self.tokens[start : self.ends[index]]

    def __iter__(self) -> Iterator[NDArray[np.integer]]:
        """The token ids of each document."""
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True)
class TokenizedCorpus:
    """A :class:`TextCorpus` as token ids.

    Attributes:
        tokenizer: The tokenizer that encoded it.
        domains: Training documents by domain name, in the order of the corpus.
        target: Documents of the target set.
        val: Documents to validate on.
        test: Documents to test on.
    """

    tokenizer: "Tokenizer"
    domains: Mapping[str, TokenizedDocuments]
    target: TokenizedDocuments
    val: TokenizedDocuments
    test: TokenizedDocuments


def tokenize_corpus(corpus: TextCorpus, vocab_size: int, cache_dir: str | Path | None = None) -> TokenizedCorpus:
    """Trains a tokenizer on the domains, never on the target, and encodes all documents with it.

    Args:
        corpus: The documents.
        vocab_size: Maximum vocabulary size, at least 257.
        cache_dir: Folder that caches the result, keyed by a hash of the documents and of ``vocab_size``. Several
            processes may share it. An entry that cannot be read is made again.

    Raises:
        DataError: If a domain has no document.
        ImportError: If the ``tokenizers`` library is not installed.
        ValueError: If ``vocab_size`` is too small.
    """
    for name, documents in corpus.domains.items():
        if not documents:
            raise DataError(f"Domain {name!r} of corpus {corpus.name!r} has no document; remove it, or add documents.")
    if cache_dir is None:
        return _tokenize(corpus, vocab_size)
    file = Path(cache_dir) / f"{_key(corpus, vocab_size)}.npz"
    if file.is_file():
        try:
            with np.load(file, allow_pickle=False) as archive:
                tokenized = _from_arrays(dict(archive), corpus)
        except _DAMAGE as error:
            _logger.warning("%s is damaged, or not a tokenized corpus (%s); making it again.", file, error)
        else:
            _logger.info("Corpus %s: token ids read from %s.", corpus.name, file)
            return tokenized
    tokenized = _tokenize(corpus, vocab_size)
    write_arrays(file, **_to_arrays(tokenized))
    return tokenized


def _tokenize(corpus: TextCorpus, vocab_size: int) -> TokenizedCorpus:
    documents = sum(map(len, corpus.domains.values()))
    _logger.info("Corpus %s: training a tokenizer on %d documents.", corpus.name, documents)
    tokenizer = train_tokenizer(chain.from_iterable(corpus.domains.values()), vocab_size)
    _logger.info("Corpus %s: encoding with %d token ids.", corpus.name, tokenizer.get_vocab_size())
    domains = {name: _encode(tokenizer, documents) for name, documents in corpus.domains.items()}
    held_out = {part: _encode(tokenizer, getattr(corpus, part)) for part in _HELD_OUT}
    sizes = ", ".join(f"{name} {len(part.tokens)}" for name, part in {**domains, **held_out}.items())
    _logger.info("Corpus %s: tokens: %s.", corpus.name, sizes)
    return TokenizedCorpus(tokenizer, domains, **held_out)


def _encode(tokenizer: "Tokenizer", documents: Sequence[str]) -> TokenizedDocuments:
    dtype = token_dtype(np.array([tokenizer.get_vocab_size() - 1]))
    encoded: list[NDArray[np.integer]] = []
    for start in range(0, len(documents), _DOCUMENTS_AT_ONCE):
        # in pieces, because the library's own result takes many times the memory of the ids
        batch = tokenizer.encode_batch(list(documents[start : start + _DOCUMENTS_AT_ONCE]))
        encoded.extend(np.array(encoding.ids, dtype=dtype) for encoding in batch)
    ends = np.cumsum([len(ids) for ids in encoded], dtype=np.int64)
    return TokenizedDocuments(np.concatenate(encoded) if encoded else np.empty(0, dtype), ends)


def _key(corpus: TextCorpus, vocab_size: int) -> str:
    digest = hashlib.sha256(f"{tokenizers_library().__version__} {vocab_size}".encode())
    parts = [*corpus.domains.items(), *((part, getattr(corpus, part)) for part in _HELD_OUT)]
    for name, documents in parts:
        digest.update(f"\n{name!r} {len(documents)}\n".encode())
        for document in documents:
            text = document.encode()
            # includes lengths, so that the same text split elsewhere has another key
            digest.update(b"%d:" % len(text))
            digest.update(text)
    return digest.hexdigest()


def _to_arrays(tokenized: TokenizedCorpus) -> dict[str, NDArray]:
    # domains by number, because their names may contain characters that an archive member's name may not
    parts = {str(index): part for index, part in enumerate(tokenized.domains.values())}
    parts |= {part: getattr(tokenized, part) for part in _HELD_OUT}
    arrays: dict[str, NDArray] = {"tokenizer": np.frombuffer(tokenized.tokenizer.to_str().encode(), dtype=np.uint8)}
    for name, part in parts.items():
        arrays[f"{name}.tokens"], arrays[f"{name}.ends"] = part.tokens, part.ends
    return arrays


def _from_arrays(arrays: Mapping[str, NDArray], corpus: TextCorpus) -> TokenizedCorpus:
    def part(name: str) -> TokenizedDocuments:
        return TokenizedDocuments(arrays[f"{name}.tokens"], arrays[f"{name}.ends"])

    tokenizer = load_tokenizer(arrays["tokenizer"].tobytes().decode())
    domains = {name: part(str(index)) for index, name in enumerate(corpus.domains)}
    return TokenizedCorpus(tokenizer, domains, part("target"), part("val"), part("test"))
