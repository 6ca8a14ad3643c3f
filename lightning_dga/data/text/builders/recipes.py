"""Text mixtures made by one call, for use in configs."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning_dga.data.datamodule import MixtureDataModule
from lightning_dga.data.errors import DataError
from lightning_dga.data.text.builders.bin_builder import TOKENIZER
from lightning_dga.data.text.builders.clustered import check_labels, clustered_text_mixture, read_labels
from lightning_dga.data.text.builders.folder_corpus import TARGET, folder_corpus
from lightning_dga.data.text.builders.mixture import text_mixture
from lightning_dga.data.text.builders.standard_library import standard_library_corpus
from lightning_dga.data.text.corpus import split_target
from lightning_dga.data.text.readers.listing import is_hidden
from lightning_dga.data.text.tokens.encoder import DocumentEncoder
from lightning_dga.data.text.tokens.packing import PackedTokens, pack
from lightning_dga.data.text.tokens.token_bin import BIN, BinDescription, TokenBin, read_documents


def folder_mixture(
    root: str | Path, target: str, *, target_documents: int | None = None, target_seed: int = 0, **arguments: Any
) -> MixtureDataModule:
    """Makes the mixture of a folder of domains and targets.

    Args:
        root: The folder; see :func:`~lightning_dga.data.text.folder_corpus`.
        target: ``<name>`` of the target.
        target_documents: How many documents of the target set to keep; all if not given.
        target_seed: Seed of their choice.
        **arguments: Further arguments of :func:`~lightning_dga.data.text.text_mixture`.
    """
    corpus = folder_corpus(root, target, target_documents=target_documents, target_seed=target_seed)
    return text_mixture(corpus, **arguments)


def clustered_mixture(
    root: str | Path,
    target: str,
    labels: str | Path,
    *,
    target_documents: int | None = None,
    target_seed: int = 0,
    **arguments: Any,
) -> MixtureDataModule:
    """Makes the mixture of the clusters of the documents of a folder.

    Args:
        root: The folder; see :func:`~lightning_dga.data.text.folder_corpus`.
        target: ``<name>`` of the target.
        labels: A ``.npy`` file with the cluster of each document, as ``dga-domains cluster`` writes it.
        target_documents: How many documents of the target set to keep; all if not given.
        target_seed: Seed of their choice.
        **arguments: Further arguments of :func:`~lightning_dga.data.text.clustered_text_mixture`.

    Raises:
        DataError: If the labels were made for other documents.
    """
    corpus = folder_corpus(root, target, target_documents=target_documents, target_seed=target_seed, at_least=1)
    read = read_labels(labels)
    check_labels(labels, corpus)
    return clustered_text_mixture(corpus, read, **arguments)


def token_bins_mixture(
    root: str | Path,
    target: str,
    *,
    batch_size: int,
    vocab_size: int | None = None,
    context_length: int = 128,
    **arguments: Any,
) -> MixtureDataModule:
    """Makes the mixture of a folder of token ids, as written by ``dga-domains tokenize``; they are memory-mapped.

    Args:
        root: The folder.
        target: ``<name>`` of the target, whose documents :func:`~lightning_dga.data.text.split_target` splits.
        batch_size: Windows per batch and rank.
        vocab_size: Vocabulary size of the model, checked against the tokenizer if given.
        context_length: Tokens that each window predicts; a sample is a LongTensor ``[context_length + 1]``.
        **arguments: Further arguments of :class:`~lightning_dga.data.MixtureDataModule`.

    Returns:
        The data module, with the ``tokenizer`` and ``context_length`` as ``tokens_per_sample``.

    Raises:
        DataError: If there is no such target, there are fewer than 2 domains, the tokenizer has more than
            ``vocab_size`` ids or is not the one that made the files, or a file is truncated or too short for one
            window.
        FileNotFoundError: If there is no such folder, or no tokenizer in it.
    """
    root = Path(root)
    files = {file.stem: file for file in sorted(root.glob(f"*{BIN}")) if not is_hidden(file.name)}
    encoder = DocumentEncoder(root / TOKENIZER, _separator(root, files.values()))
    if vocab_size is not None and encoder.largest_id >= vocab_size:
        raise DataError(
            f"{root}: the tokenizer has {encoder.largest_id + 1} ids, `vocab_size` is {vocab_size}; raise `vocab_size`."
        )
    domains = {name: file for name, file in files.items() if not name.startswith(TARGET)}
    if len(domains) < 2:
        raise DataError(f"{root}: a mixture needs at least 2 domains, found {', '.join(domains) or 'none'}.")
    if f"{TARGET}{target}" not in files:
        available = ", ".join(repr(name.removeprefix(TARGET)) for name in files if name.startswith(TARGET)) or "none"
        raise DataError(f"{root}: no target {target!r}. Targets: {available}.")
    parts = split_target(list(read_documents(files[f"{TARGET}{target}"])))
    held_out = [pack(documents, context_length, encoder.end_of_text) for documents in parts]
    for name, windows in zip(("The target", "Part 'val'", "Part 'test'"), held_out, strict=True):
        if not len(windows):
            raise DataError(f"{name} of target {target!r} is too short for a window of {context_length + 1} tokens.")
    target_set, val, test = map(PackedTokens, held_out)
    bins = {name: TokenBin(file, context_length) for name, file in domains.items()}
    return MixtureDataModule(
        bins,
        target_set,
        val=val,
        test=test,
        batch_size=batch_size,
        tokens_per_sample=context_length,
        tokenizer=encoder.tokenizer,
        **arguments,
    )


def _separator(root: Path, files: Iterable[Path]) -> int | None:
    """The separator that all files of a folder share; checks that its tokenizer made them."""
    digest = hashlib.sha256((root / TOKENIZER).read_bytes()).hexdigest()
    separators = set()
    for file in files:
        description = BinDescription.read(file)
        if description.tokenizer != digest:
            raise DataError(
                f"{file}: made with another tokenizer than {root / TOKENIZER}; make both again with "
                "`dga-domains tokenize`."
            )
        separators.add(description.end_of_text)
    if len(separators) > 1:
        raise DataError(
            f"{root}: its files have different document separators; make them again with `dga-domains tokenize`."
        )
    return separators.pop() if separators else None


def standard_library_mixture(target_documents: int = 8, **arguments: Any) -> MixtureDataModule:
    """Makes the mixture of text from Python's standard library, which ships with this package.

    Args:
        target_documents: Documents in the target set; see :func:`~lightning_dga.data.text.standard_library_corpus`.
        **arguments: Further arguments of :func:`~lightning_dga.data.text.text_mixture`.
    """
    return text_mixture(standard_library_corpus(target_documents), **arguments)
