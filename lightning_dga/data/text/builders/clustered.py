"""Mixtures whose domains are clusters of the documents of a corpus."""

import json
import logging
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_dga.core.document_digest import DocumentDigest
from lightning_dga.data.datamodule import MixtureDataModule
from lightning_dga.data.errors import DataError
from lightning_dga.data.sources import LabelledDataset
from lightning_dga.data.text.builders.mixture import mix
from lightning_dga.data.text.corpus import TextCorpus
from lightning_dga.data.text.tokens.packing import PackedTokens
from lightning_dga.data.text.tokens.tokenized_corpus import tokenize_corpus
from lightning_dga.data.text.tokens.tokenizer import END_OF_TEXT_ID

_logger = logging.getLogger(__name__)

_WINDOWS_AT_ONCE = 8192


def clustered_text_mixture(
    corpus: TextCorpus,
    labels: Sequence[int] | NDArray[np.integer],
    *,
    batch_size: int,
    vocab_size: int = 1024,
    context_length: int = 128,
    tokens_per_domain: int | None = None,
    cache_dir: str | Path | None = None,
    seed: int = 0,
    **mixture_arguments: Any,
) -> MixtureDataModule:
    """Tokenises a corpus, packs each cluster's documents, and mixes the clusters, named by their label.

    Args:
        corpus: The documents. The domains that they come from are ignored.
        labels: Cluster of each document, domain by domain, in the order of the documents within each.
        batch_size: Windows per batch and rank.
        vocab_size: Maximum vocabulary size, at least 257.
        context_length: Tokens that each window predicts; a sample is a LongTensor ``[context_length + 1]``.
        tokens_per_domain: Maximum tokens to train on per cluster, but at least one window; all if not given.
        cache_dir: Folder that caches the token ids for later runs (:func:`tokenize_corpus`).
        seed: Seed of the order in which documents are joined, and of the sequence of training samples.
        **mixture_arguments: Further arguments of :class:`~lightning_dga.data.MixtureDataModule`.

    Returns:
        The data module; see :func:`text_mixture`.

    Raises:
        DataError: If there is not one label for each document.
    """
    documents = sum(map(len, corpus.domains.values()))
    if len(labels) != documents:
        raise DataError(
            f"There are {len(labels)} labels, and corpus {corpus.name!r} has {documents} documents; "
            "give the labels that `dga-domains cluster` wrote for this corpus."
        )
    tokenized = tokenize_corpus(corpus, vocab_size, cache_dir)
    windows, window_labels = pack_by_label(
        list(chain.from_iterable(tokenized.domains.values())),
        np.asarray(labels),
        context_length,
        END_OF_TEXT_ID,
        seed=seed,
        most=tokens_per_domain,
    )
    clusters = LabelledDataset(PackedTokens(windows), window_labels)
    return mix(clusters, tokenized, corpus, context_length, batch_size=batch_size, seed=seed, **mixture_arguments)


def pack_by_label(
    documents: Sequence[NDArray[np.integer]],
    labels: NDArray[np.integer],
    context_length: int,
    end_of_text: int,
    *,
    seed: int = 0,
    most: int | None = None,
) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
    """Joins the documents of each cluster in a random order, and cuts the result into windows, as :func:`pack` does.

    Every cluster gets at least one window: if its documents are too short, they are repeated to fill one.

    Args:
        documents: Token ids of each document.
        labels: Cluster of each document, ``[documents]``.
        context_length: Tokens that a window predicts.
        end_of_text: Id of the separator.
        seed: Seed of the order.
        most: Maximum number of tokens per cluster, but at least one window; all if not given.

    Returns:
        The windows ``[n, context_length + 1]``, and the cluster of each, ``[n]``.

    Example:
        >>> windows, labels = pack_by_label([np.array([5]), np.array([6, 7, 8, 9])], np.array([0, 1]), 2, 0)
        >>> windows.tolist(), labels.tolist()
        ([[5, 0, 5], [6, 7, 8], [8, 9, 0]], [0, 1, 1])
    """
    shuffled = np.random.default_rng(seed).permutation(len(documents))
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    lengths = np.array([len(documents[index]) + 1 for index in order.tolist()])
    stream: NDArray[np.integer] = np.full(
        int(lengths.sum()), end_of_text, dtype=np.result_type(np.uint16, *documents[:1])
    )
    for index, stop, length in zip(order.tolist(), np.cumsum(lengths).tolist(), lengths.tolist(), strict=True):
        stream[stop - length : stop - 1] = documents[index]
    found, first = np.unique(labels[order], return_index=True)
    tokens = np.add.reduceat(lengths, first)
    begins = np.cumsum(tokens) - tokens
    counts = np.maximum(1, (tokens - 1) // context_length)
    if most is not None:
        counts = np.minimum(counts, max(1, most // context_length))
    if short := int((tokens <= context_length).sum()):
        _logger.warning(
            "%d of %d clusters are shorter than a window of %d tokens; their documents are repeated to fill one.",
            *(short, len(found), context_length + 1),
        )
    cluster = np.repeat(np.arange(len(found)), counts)
    within = np.arange(len(cluster)) - np.repeat(np.cumsum(counts) - counts, counts)
    windows: NDArray[np.integer] = np.empty((len(cluster), context_length + 1), dtype=stream.dtype)
    for start in range(0, len(cluster), _WINDOWS_AT_ONCE):
        rows = slice(start, start + _WINDOWS_AT_ONCE)
        offsets = within[rows, None] * context_length + np.arange(context_length + 1)
        windows[rows] = stream[begins[cluster[rows], None] + offsets % tokens[cluster[rows], None]]
    return windows, found[cluster]


def check_labels(file: str | Path, corpus: TextCorpus) -> None:
    """Checks that labels belong to a corpus, by the digests in the ``cluster.json`` beside them.

    Raises:
        DataError: If documents were changed, added, removed or reordered since, even if their number is the same.
    """
    try:
        made_of = json.loads(Path(file).with_name("cluster.json").read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        made_of = None
    if not made_of:
        # labels made by the user, or by an older version
        return
    now = {name: DocumentDigest(documents).hexdigest() for name, documents in corpus.domains.items()}
    if list(made_of.items()) != list(now.items()):
        changed = [name for name in {**made_of, **now} if made_of.get(name) != now.get(name)]
        raise DataError(
            f"{file}: these labels are of other documents than corpus {corpus.name!r} has"
            f"{' in ' + ', '.join(changed) if changed else ''}; make them again: dga-domains embed --overwrite, then "
            "dga-domains cluster --overwrite."
        )


def read_labels(file: str | Path) -> NDArray[np.integer]:
    """Reads the cluster of each document from a ``.npy`` file.

    Raises:
        FileNotFoundError: If there is none.
        DataError: If it does not hold one integer for each document.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"There is no file of labels {file}; `dga-domains cluster` writes one.")
    try:
        labels = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{file}: not a .npy file of labels ({error}). `dga-domains cluster` writes one.") from error
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{file}: {labels.dtype} of shape {labels.shape}, expected one integer for each document.")
    return labels
