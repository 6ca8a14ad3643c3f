"""Makes a data module from a text corpus, with its domains as the mixture's domains."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from lightning_dga.data.datamodule import MixtureDataModule
from lightning_dga.data.errors import DataError
from lightning_dga.data.sources import Sources
from lightning_dga.data.text.corpus import TextCorpus
from lightning_dga.data.text.tokens.packing import PackedTokens, pack
from lightning_dga.data.text.tokens.tokenized_corpus import TokenizedCorpus, TokenizedDocuments, tokenize_corpus
from lightning_dga.data.text.tokens.tokenizer import END_OF_TEXT_ID


def text_mixture(
    corpus: TextCorpus,
    *,
    batch_size: int,
    vocab_size: int = 1024,
    context_length: int = 128,
    tokens_per_domain: int | None = None,
    cache_dir: str | Path | None = None,
    seed: int = 0,
    sample_seed: int | None = None,
    **mixture_arguments: Any,
) -> MixtureDataModule:
    """Tokenises and packs a corpus, and mixes its domains.

    The tokenizer is trained on all documents of the domains, regardless of ``tokens_per_domain``, so that losses in
    nats per token are comparable between caps. It is not trained on the target.

    Args:
        corpus: The documents.
        batch_size: Windows per batch and rank.
        vocab_size: Maximum vocabulary size, at least 257.
        context_length: Tokens that each window predicts; a sample is a LongTensor ``[context_length + 1]``.
        tokens_per_domain: Maximum tokens to train on per domain; all if not given. Whole documents are taken in a
            random order and the last one is truncated. The choice depends on ``sample_seed`` and the domain's name, not
            on other domains, and a larger cap extends a smaller one.
        cache_dir: Folder that caches the token ids for later runs (:func:`tokenize_corpus`).
        seed: Seed of the sequence of training samples.
        sample_seed: Seed of the capped choice, and of the order in which documents are joined; ``seed`` if not given.
        **mixture_arguments: Further arguments of :class:`~lightning_dga.data.MixtureDataModule`.

    Returns:
        The data module, with the ``tokenizer`` and ``context_length`` as ``tokens_per_sample``. ``val`` and ``test``
        are left out where the corpus has no documents for them.

    Raises:
        DataError: If a domain, the target, ``val`` or ``test`` is too short for one window; names it and its tokens.
        ImportError: If the ``tokenizers`` library is not installed.
        ValueError: If an argument is out of range.
    """
    if context_length < 1:
        raise ValueError(f"`context_length` must be at least 1, got {context_length}.")
    if tokens_per_domain is not None and tokens_per_domain < context_length:
        raise ValueError(
            f"`tokens_per_domain` ({tokens_per_domain}) is less than one window, `context_length` ({context_length})."
        )
    chosen_by = seed if sample_seed is None else sample_seed
    tokenized = tokenize_corpus(corpus, vocab_size, cache_dir)
    domains = {
        name: pack_part(
            _sample(documents, name, chosen_by, tokens_per_domain),
            f"Domain {name!r}",
            corpus,
            context_length,
            tokens_per_domain,
        )
        for name, documents in tokenized.domains.items()
    }
    return mix(domains, tokenized, corpus, context_length, batch_size=batch_size, seed=seed, **mixture_arguments)


def mix(
    domains: Mapping[str, Dataset] | Sources,
    tokenized: TokenizedCorpus,
    corpus: TextCorpus,
    context_length: int,
    **mixture_arguments: Any,
) -> MixtureDataModule:
    """Makes the data module of :func:`text_mixture` from packed domains and the other parts of a corpus."""

    def evaluation(documents: TokenizedDocuments, part: str) -> PackedTokens | None:
        return pack_part(list(documents), f"Part {part!r}", corpus, context_length) if len(documents) else None

    return MixtureDataModule(
        domains,
        pack_part(list(tokenized.target), "The target", corpus, context_length),
        val=evaluation(tokenized.val, "val"),
        test=evaluation(tokenized.test, "test"),
        tokens_per_sample=context_length,
        tokenizer=tokenized.tokenizer,
        **mixture_arguments,
    )


def pack_part(
    documents: Sequence[NDArray[np.integer]],
    what: str,
    corpus: TextCorpus,
    context_length: int,
    most: int | None = None,
) -> PackedTokens:
    """Packs one part of a corpus.

    Raises:
        DataError: If it is too short for one window.
    """
    windows = pack(documents, context_length, END_OF_TEXT_ID)
    if not len(windows):
        tokens = sum(map(len, documents)) + len(documents)
        raise DataError(
            f"{what} of corpus {corpus.name!r} has {tokens} tokens, too few for one window of "
            f"{context_length + 1}; give it more text, or lower `context_length`."
        )
    return PackedTokens(windows if most is None else windows[: most // context_length])


def _sample(documents: TokenizedDocuments, name: str, seed: int, tokens: int | None) -> list[NDArray[np.integer]]:
    """Documents in the random order of this domain, as many as give ``tokens`` tokens to predict."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    order = np.random.default_rng([seed & 0xFFFFFFFFFFFFFFFF, key]).permutation(len(documents))
    if tokens is not None:
        lengths = np.diff(documents.ends, prepend=0)[order] + 1
        # one more than the predicted tokens, because the first is not predicted
        order = order[: np.searchsorted(np.cumsum(lengths), tokens + 1) + 1]
    return [documents[index] for index in order.tolist()]
