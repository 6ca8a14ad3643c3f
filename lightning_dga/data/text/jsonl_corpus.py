"""A corpus in a folder: one JSON Lines file per domain, and one per target."""

from pathlib import Path

from lightning_dga.data.errors import DataError
from lightning_dga.data.text.corpus import TextCorpus, split_target
from lightning_dga.data.text.documents import read_jsonl

_TARGET = "target_"


def jsonl_corpus(root: str | Path, target: str) -> TextCorpus:
    """Reads a folder of ``<domain>.jsonl`` files and a ``target_<name>.jsonl``, with ``{"text": ...}`` on each line.

    Args:
        root: The folder.
        target: The ``<name>`` of the target's file, whose documents :func:`split_target` splits.

    Returns:
        The corpus. Domains are named by their file's stem, in sorted order; no ``target_`` file is ever a domain.

    Raises:
        FileNotFoundError: If there is no such folder.
        DataError: If there are fewer than 2 domains, no such target, or a file cannot be used (:func:`read_jsonl`).
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder {root}.")
    files = {file.stem: file for file in sorted(root.glob("*.jsonl"))}
    targets = {stem.removeprefix(_TARGET): file for stem, file in files.items() if stem.startswith(_TARGET)}
    domains = {stem: file for stem, file in files.items() if not stem.startswith(_TARGET)}
    if target not in targets:
        available = ", ".join(map(repr, targets)) or f"none; add a file {_TARGET}<name>.jsonl"
        raise DataError(f"{root}: no target {target!r}. Targets: {available}.")
    if len(domains) < 2:
        found = ", ".join(map(repr, domains)) or "none"
        raise DataError(f"{root}: a mixture needs at least 2 domains, found {found}; add files <domain>.jsonl.")
    held_out = list(read_jsonl(targets[target]))
    if len(held_out) < 3:
        raise DataError(f"{targets[target]}: {len(held_out)} documents; a target needs at least 3 to be split.")
    parts = split_target(held_out)
    return TextCorpus({name: list(read_jsonl(file)) for name, file in domains.items()}, *parts, name=target)
