"""A corpus that needs no download: text from the standard library of Python 3.11.7."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

from lightning_dga.data.text.corpus import TextCorpus, split_target

MANUAL_CHARACTERS = 160_000

# 1.7 MB of JSON, the passages of each domain; their licences stand beside it
_FILE = Path(__file__).with_name("standard_library.json.gz")


def standard_library_corpus(target_documents: int = 8) -> TextCorpus:
    """Makes a corpus of six kinds of text that ships with this package; the target is passages of Python's manual.

    The domains are ``code`` (without docstrings and comments), ``comments``, ``docstrings``, ``manual`` (the language
    reference), ``messages`` (string constants) and ``tables`` (code pages and HTML entities). Documents have up to
    1,500 characters, and domains up to 300,000. ``manual``, which is text of the target's kind, has at most 160,000, so
    that training on it alone overfits and a good mixture is neither uniform nor this domain alone. Target, validation
    and test are passages of the manual that are in no domain.

    Args:
        target_documents: Number of passages in the target set, spread evenly over the manual.

    Raises:
        ValueError: If ``target_documents`` is not positive, or larger than the number of passages available.
    """
    domains: dict[str, list[str]] = json.loads(gzip.decompress(_FILE.read_bytes()))
    # half of the manual goes to the domain and a third to the test; the target is chosen from the domain's part
    test, val, mixed = split_target(domains["manual"])
    if not 1 <= target_documents <= len(mixed) // 2:
        raise ValueError(f"`target_documents` must be between 1 and {len(mixed) // 2}, got {target_documents}.")
    chosen = {index * len(mixed) // target_documents for index in range(target_documents)}
    target = [mixed[index] for index in sorted(chosen)]
    rest = [document for index, document in enumerate(mixed) if index not in chosen]
    domains["manual"] = _spread(rest, MANUAL_CHARACTERS)
    return TextCorpus(domains, target, val, test, name="standard_library")


def _spread(documents: Sequence[str], characters: int) -> list[str]:
    """As many documents as fit, evenly spread."""
    count = len(documents)
    while count and sum(len(documents[index * len(documents) // count]) for index in range(count)) > characters:
        count -= 1
    return [documents[index * len(documents) // count] for index in range(count)]
