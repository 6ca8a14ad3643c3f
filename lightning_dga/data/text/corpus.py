"""The documents of each domain, and the split of a target's documents into target set, validation and test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from lightning_dga.data.errors import DataError

T = TypeVar("T")


@dataclass(frozen=True)
class TextCorpus:
    """The documents of a text mixture, as plain text.

    Attributes:
        domains: Training documents by domain name.
        target: Documents of the target set.
        val: Held-out documents of the target for validation; may be empty.
        test: Held-out documents of the target for the test; may be empty.
        name: Name of the corpus in log messages.
    """

    domains: Mapping[str, Sequence[str]]
    target: Sequence[str]
    val: Sequence[str]
    test: Sequence[str]
    name: str


def split_target(documents: Sequence[T], block: int = 10) -> tuple[list[T], list[T], list[T]]:
    """Splits a target's documents into target set, validation and test, in interleaved blocks.

    Documents are often consecutive pieces of one text. A whole block of neighbours goes to one part, so that only
    documents at the edge of a block have a neighbour in another part, while all three parts cover the whole data. Of
    every six blocks, the first and fifth go to the target set (one third), the third to validation (one sixth), and
    the second, fourth and sixth to the test (one half).

    Args:
        documents: At least 3 documents, as text or as token ids, in their natural order.
        block: Consecutive documents per block; reduced to a third of the documents if there are fewer than
            ``3 * block``.

    Returns:
        The documents of the target set, of validation and of the test; none of the three is empty.

    Raises:
        DataError: If there are fewer than 3 documents.
        ValueError: If ``block`` is not positive.

    Example:
        >>> split_target(["a", "b", "c", "d", "e", "f"], block=1)
        (['a', 'e'], ['c'], ['b', 'd', 'f'])
    """
    if block < 1:
        raise ValueError(f"`block` must be at least 1, got {block}.")
    if len(documents) < 3:
        raise DataError(
            f"A target needs at least 3 documents to split into target, val and test; got {len(documents)}."
        )
    block = min(block, len(documents) // 3)
    parts: dict[str, list[T]] = {"target": [], "val": [], "test": []}
    turns = ("target", "test", "val", "test", "target", "test")
    for index, document in enumerate(documents):
        parts[turns[index // block % len(turns)]].append(document)
    return parts["target"], parts["val"], parts["test"]
