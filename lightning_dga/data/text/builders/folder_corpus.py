"""A corpus on disk: one file or folder of text per domain and per target."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lightning_dga.data.errors import DataError
from lightning_dga.data.text.corpus import TextCorpus, split_target
from lightning_dga.data.text.readers.document_stream import DocumentStream, is_text
from lightning_dga.data.text.readers.documents import read_jsonl
from lightning_dga.data.text.readers.files import kind, stem
from lightning_dga.data.text.readers.listing import is_hidden, walk, warn_of_unread

_logger = logging.getLogger(__name__)

TARGET = "target_"
_JSONL = ".jsonl"


def folder_corpus(
    root: str | Path, target: str, *, target_documents: int | None = None, target_seed: int = 0, at_least: int = 2
) -> TextCorpus:
    """Reads a folder whose entries are domains and targets.

    An entry is a file ``<name>.jsonl`` with ``{"text": ...}`` on each line, another file of text that
    :class:`~lightning_dga.data.text.DocumentStream` reads (``.parquet``, ``.jsonl.gz``, …), or a folder ``<name>`` of
    such files or of plain ``.txt``. Entries named ``target_<name>`` are targets and never domains. Hidden files and
    folders are skipped at every level (:func:`~lightning_dga.data.text.readers.listing.is_hidden`); a warning names
    all other files that are not read.

    Args:
        root: The folder.
        target: The ``<name>`` of the target, whose documents :func:`split_target` splits.
        target_documents: How many documents of the target set to keep, chosen at random; all if not given. A larger
            number extends the choice of a smaller one. Validation and test are not reduced.
        target_seed: Seed of the choice.
        at_least: Minimum number of domains; one is enough if clusters of documents are mixed.

    Returns:
        The corpus, with its domains in sorted order.

    Raises:
        FileNotFoundError: If there is no such folder.
        DataError: If there are fewer than ``at_least`` domains, two domains have the same name, there is no such
            target or it has fewer than ``target_documents`` documents, or a file cannot be used.
    """
    domains = folder_domains(root)
    aligned, val, test = _target_parts(Path(root), target, target_documents, target_seed)
    if len(domains) < at_least:
        found = ", ".join(map(repr, domains)) or "none"
        raise DataError(
            f"{root}: a mixture needs at least {at_least} domains, found {found}; add files <domain>{_JSONL}."
        )
    return TextCorpus({name: list(documents) for name, documents in domains.items()}, aligned, val, test, name=target)


class FolderDocuments:
    """The documents of one entry of a folder, read from disk each time they are iterated.

    Args:
        path: A file or a folder of text; see :func:`folder_corpus`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[str]:
        """The documents, in their order on disk."""
        if self.path.is_dir() or kind(self.path.name) not in ("jsonl", "json"):
            return iter(DocumentStream(self.path))
        return read_jsonl(self.path)


def folder_domains(root: str | Path) -> dict[str, FolderDocuments]:
    """The domains of a folder (:func:`folder_corpus`), sorted by name; documents are read only when iterated.

    Raises:
        FileNotFoundError: If there is no such folder.
        DataError: If two entries have the same name.
    """
    entries = corpus_entries(Path(root))
    return {name: FolderDocuments(path) for name, path in entries.items() if not name.startswith(TARGET)}


def folder_target(
    root: str | Path, target: str, *, target_documents: int | None = None, target_seed: int = 0
) -> list[str]:
    """The target set of :func:`folder_corpus` for the same arguments, without validation and test documents."""
    return _target_parts(Path(root), target, target_documents, target_seed)[0]


def _target_parts(
    root: Path, target: str, target_documents: int | None, seed: int
) -> tuple[list[str], list[str], list[str]]:
    targets = {
        name.removeprefix(TARGET): path for name, path in corpus_entries(root).items() if name.startswith(TARGET)
    }
    if target not in targets:
        available = ", ".join(map(repr, targets)) or f"none; add a file {TARGET}<name>{_JSONL}"
        raise DataError(f"{root}: no target {target!r}. Targets: {available}.")
    _warn_if_shared(root, targets[target])
    documents = list(FolderDocuments(targets[target]))
    if len(documents) < 3:
        raise DataError(
            f"{targets[target]}: {len(documents)} documents; a target needs at least 3, to be "
            "split into target set, validation and test."
        )
    aligned, val, test = split_target(documents)
    if target_documents is None:
        return aligned, val, test
    if not 1 <= target_documents <= len(aligned):
        raise DataError(
            f"`target_documents` is {target_documents}; the target set {target!r} has from 1 to {len(aligned)} to give."
        )
    # a larger number extends a smaller choice; documents keep their order
    chosen = sorted(np.random.default_rng(seed).permutation(len(aligned))[:target_documents].tolist())
    return [aligned[index] for index in chosen], val, test


def _warn_if_shared(root: Path, target: Path) -> None:
    for name, documents in folder_domains(root).items():
        if documents.path.samefile(target):
            _logger.warning(
                "%s: target %r and domain %r are the same file or folder, so that a run trains on its validation "
                "and test documents; give one of them other documents.",
                *(root, target.name, name),
            )


def corpus_entries(root: Path) -> dict[str, Path]:
    """The files and folders of a corpus by name, targets included, in sorted order.

    Raises:
        FileNotFoundError: If there is no such folder.
        DataError: If two entries have the same name.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder {root}.")
    entries: dict[str, Path] = {}
    unread: list[str] = []
    for path in sorted(root.iterdir()):
        # a link to the corpus itself or to a parent folder would be read as one domain with all documents
        if is_hidden(path.name) or (path.is_dir() and root.resolve().is_relative_to(path.resolve())):
            continue
        if path.is_dir():
            if not any(map(is_text, walk(path))):
                unread += [f"{path.name}/"] if any(True for _ in walk(path)) else []
                continue
            name = path.name
        # such as a README.txt: a single document is not a domain
        elif kind(path.name) != "txt" and is_text(str(path)):
            name = stem(path.name)
        else:
            unread.append(path.name)
            continue
        if name in entries:
            raise DataError(
                f"{root}: {entries[name].name} and {path.name} give two domains one name; rename one of them."
            )
        entries[name] = path
    warn_of_unread(str(root), unread)
    return entries
