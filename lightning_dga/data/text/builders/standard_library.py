"""A corpus that needs no download: text of several kinds from the standard library of the running Python."""

import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from lightning_dga.data.errors import DataError
from lightning_dga.data.text.builders.passages import passages
from lightning_dga.data.text.builders.python_manual import manual_topics
from lightning_dga.data.text.builders.python_source import (
    code,
    comments,
    docstrings,
    messages,
    read_source,
    source_files,
    table_rows,
)
from lightning_dga.data.text.corpus import TextCorpus, split_target

DOMAIN_CHARACTERS = 300_000
MANUAL_CHARACTERS = 160_000

_DOCUMENT_CHARACTERS = 1500


def standard_library_corpus(target_documents: int = 8) -> TextCorpus:
    """Text of six kinds that every complete Python >= 3.10 has on its disk; the target is a few passages of its manual.

    The domains are ``code`` (without docstrings and comments), ``comments``, ``docstrings``, ``manual`` (the language
    reference), ``messages`` (string constants) and ``tables`` (code pages and HTML entities). Each is cut to documents
    of up to 1,500 characters, and holds at most 300,000 characters, ``manual`` at most 160,000: it is the target's own
    kind, and repeating it for ever overfits, so that a good mixture is neither uniform nor this domain alone. Target,
    validation and test are passages of the manual that no domain holds. Sources are parsed, nothing is imported, and
    the result is the same for one version of Python.

    Args:
        target_documents: Passages in the target set, spread over the manual.

    Raises:
        DataError: If this Python was installed without its manual or its sources; says what to install.
        ValueError: If ``target_documents`` is not positive, or the manual has fewer to give.
    """
    library = Path(sysconfig.get_path("stdlib"))
    # the half goes to the domain, where it is repeated, and the third to the test
    test, val, mixed = split_target([*_manual(library)])
    if not 1 <= target_documents <= len(mixed) // 2:
        raise ValueError(f"`target_documents` must be between 1 and {len(mixed) // 2}, got {target_documents}.")
    chosen = {index * len(mixed) // target_documents for index in range(target_documents)}
    target = [mixed[index] for index in sorted(chosen)]
    rest = [document for index, document in enumerate(mixed) if index not in chosen]
    domains = {
        "code": _from_source(library, code),
        "comments": _from_source(library, comments),
        "docstrings": _from_source(library, docstrings),
        "manual": _spread(rest, MANUAL_CHARACTERS),
        "messages": _from_source(library, messages, separator="\n"),
        "tables": _tables(library),
    }
    return TextCorpus(domains, target, val, test, name="standard_library")


def _manual(library: Path) -> Iterator[str]:
    for paragraphs in manual_topics(library):
        yield from passages(paragraphs, "\n\n", _DOCUMENT_CHARACTERS)


def _from_source(library: Path, extract: Callable[[str], list[str]], separator: str = "\n\n") -> list[str]:
    files = source_files(library)
    if not files:
        raise DataError(f"This Python has no source files in {library}; install the complete standard library.")
    return _bounded((extract(read_source(file)) for file in files), separator)


def _tables(library: Path) -> list[str]:
    files = [library / "html" / "entities.py", *sorted((library / "encodings").glob("*.py"))]
    return _bounded((table_rows(read_source(file)) for file in files), "\n")


def _unique(files: Iterable[list[str]]) -> Iterator[list[str]]:
    """Removes pieces that occurred before: licences, repeated method docstrings, rows of code pages."""
    seen: set[str] = set()
    for pieces in files:
        kept = [piece for piece in dict.fromkeys(pieces) if piece not in seen]
        seen.update(kept)
        yield kept


def _bounded(files: Iterable[list[str]], separator: str) -> list[str]:
    documents: list[str] = []
    size = 0
    for pieces in _unique(files):
        for document in passages(pieces, separator, _DOCUMENT_CHARACTERS):
            size += len(document)
            if size > DOMAIN_CHARACTERS:
                return documents
            documents.append(document)
    return documents


def _spread(documents: Sequence[str], characters: int) -> list[str]:
    """As many documents as fit, evenly spread."""
    count = len(documents)
    while count and sum(len(documents[index * len(documents) // count]) for index in range(count)) > characters:
        count -= 1
    return [documents[index * len(documents) // count] for index in range(count)]
