"""Joins pieces of text into documents of moderate size."""

from collections.abc import Iterable, Iterator


def passages(pieces: Iterable[str], separator: str, characters: int) -> Iterator[str]:
    """Joins consecutive pieces to documents, lazily.

    Args:
        pieces: Paragraphs, definitions, lines, …
        separator: What to join them with.
        characters: Maximum length of a document. A longer piece is split at line ends; only a longer line gives a
            longer document.

    Example:
        >>> list(passages(["one", "two", "three"], " ", characters=8))
        ['one two', 'three']
    """
    return _join((part for piece in pieces for part in _cut(piece, characters)), separator, characters)


def _cut(piece: str, characters: int) -> Iterable[str]:
    return _join(piece.splitlines(), "\n", characters) if len(piece) > characters else [piece]


def _join(parts: Iterable[str], separator: str, characters: int) -> Iterator[str]:
    document: list[str] = []
    size = 0
    for part in parts:
        if document and size + len(separator) + len(part) > characters:
            yield separator.join(document)
            document = []
        size = size + len(separator) + len(part) if document else len(part)
        document.append(part)
    if document:
        yield separator.join(document)
