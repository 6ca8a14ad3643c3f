"""A corpus on disk: a file or a folder of text for each domain, and one for each target."""

from collections.abc import Sequence
from pathlib import Path

from lightning_dga.data.errors import DataError
from lightning_dga.data.text.corpus import TextCorpus, split_target
from lightning_dga.data.text.document_stream import DocumentStream, is_text
from lightning_dga.data.text.documents import read_jsonl
from lightning_dga.data.text.files import kind, stem

TARGET = "target_"
_JSONL = ".jsonl"


def folder_corpus(root: str | Path, target: str) -> TextCorpus:
    """Reads a folder whose entries are domains and targets.

    An entry is a file ``<name>.jsonl`` with ``{"text": ...}`` on each line, another file of text that
    :class:`~lightning_dga.data.text.DocumentStream` reads (``.parquet``, ``.jsonl.gz``, …), or a folder ``<name>`` of
    such files or of plain ``.txt``. Those called ``target_<name>`` are targets and never domains.

    Args:
        root: The folder.
        target: The ``<name>`` of the target, whose documents :func:`split_target` splits.

    Returns:
        The corpus, with its domains in sorted order.

    Raises:
        FileNotFoundError: If there is no such folder.
        DataError: If there are fewer than 2 domains, two of one name, no such target, or a file cannot be used.
    """
    root = Path(root)
    entries = corpus_entries(root)
    targets = {name.removeprefix(TARGET): path for name, path in entries.items() if name.startswith(TARGET)}
    domains = {name: path for name, path in entries.items() if not name.startswith(TARGET)}
    if target not in targets:
        available = ", ".join(map(repr, targets)) or f"none; add a file {TARGET}<name>{_JSONL}"
        raise DataError(f"{root}: no target {target!r}. Targets: {available}.")
    if len(domains) < 2:
        found = ", ".join(map(repr, domains)) or "none"
        raise DataError(f"{root}: a mixture needs at least 2 domains, found {found}; add files <domain>{_JSONL}.")
    held_out = _documents(targets[target])
    if len(held_out) < 3:
        raise DataError(f"{targets[target]}: {len(held_out)} documents; a target needs at least 3 to be split.")
    parts = split_target(held_out)
    return TextCorpus({name: _documents(path) for name, path in domains.items()}, *parts, name=target)


def corpus_entries(root: Path) -> dict[str, Path]:
    """The files and folders of a corpus by name, targets included, in sorted order.

    Raises:
        FileNotFoundError: If there is no such folder.
        DataError: If two have one name.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder {root}.")
    entries: dict[str, Path] = {}
    for path in sorted(root.iterdir()):
        if path.is_dir():
            if not any(is_text(file.name) for file in path.glob("**/*")):
                continue
            name = path.name
        elif is_text(path.name) and kind(path.name) != "txt":
            name = stem(path.name)
        else:
            continue
        if name in entries:
            raise DataError(f"{root}: {entries[name].name} and {path.name} give two domains one name; rename one.")
        entries[name] = path
    return entries


def _documents(path: Path) -> Sequence[str]:
    return list(read_jsonl(path) if path.suffix == _JSONL else DocumentStream(path))
