"""A corpus on disk: a JSON Lines file or a folder of plain text for each domain, and one for each target."""

from collections.abc import Sequence
from pathlib import Path

from lightning_dga.data.errors import DataError
from lightning_dga.data.text.corpus import TextCorpus, split_target
from lightning_dga.data.text.documents import read_folder, read_jsonl

_TARGET = "target_"
_JSONL = ".jsonl"


def folder_corpus(root: str | Path, target: str) -> TextCorpus:
    """Reads a folder whose entries are domains and targets.

    An entry is a file ``<name>.jsonl`` with ``{"text": ...}`` on each line, or a folder ``<name>`` of ``.txt`` files.
    Those called ``target_<name>`` are targets and never domains.

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
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder {root}.")
    entries = _entries(root)
    targets = {name.removeprefix(_TARGET): path for name, path in entries.items() if name.startswith(_TARGET)}
    domains = {name: path for name, path in entries.items() if not name.startswith(_TARGET)}
    if target not in targets:
        available = ", ".join(map(repr, targets)) or f"none; add a file {_TARGET}<name>{_JSONL}"
        raise DataError(f"{root}: no target {target!r}. Targets: {available}.")
    if len(domains) < 2:
        found = ", ".join(map(repr, domains)) or "none"
        raise DataError(f"{root}: a mixture needs at least 2 domains, found {found}; add files <domain>{_JSONL}.")
    held_out = _documents(targets[target])
    if len(held_out) < 3:
        raise DataError(f"{targets[target]}: {len(held_out)} documents; a target needs at least 3 to be split.")
    parts = split_target(held_out)
    return TextCorpus({name: _documents(path) for name, path in domains.items()}, *parts, name=target)


def _entries(root: Path) -> dict[str, Path]:
    entries: dict[str, Path] = {}
    for path in sorted(root.iterdir()):
        if path.suffix != _JSONL and not (path.is_dir() and any(path.glob("**/*.txt"))):
            continue
        name = path.stem if path.suffix == _JSONL else path.name
        if name in entries:
            raise DataError(f"{root}: {entries[name].name} and {path.name} give two domains one name; rename one.")
        entries[name] = path
    return entries


def _documents(path: Path) -> Sequence[str]:
    return list(read_jsonl(path) if path.suffix == _JSONL else read_folder(path))
