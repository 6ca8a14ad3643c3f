"""Pieces of text to documents of a moderate size."""

from collections.abc import Iterable, Iterator


def passages(pieces: Iterable[str], separator: str, characters: int) -> Iterator[str]:
    """Joins consecutive pieces to documents of at most about ``characters`` characters.

    Args:
        pieces: Paragraphs, definitions, lines, …
        separator: What to join them with.
        characters: A document ends before the piece that would make it longer. A single longer piece is cut at line ends.

    Returns:
        The documents, lazily.
    """
    document: list[str] = []
    size = 0
    for piece in pieces:
        for part in _cut(piece, characters):
            if document and size + len(part) > characters:
                yield separator.join(document)
                document, size = [], 0
            document.append(part)
            size += len(part) + len(separator)
    if document:
        yield separator.join(document)


def _cut(piece: str, characters: int) -> Iterator[str]:
    if len(piece) <= characters:
        yield piece
    else:
        yield from passages(piece.splitlines(), "\n", max(characters, max(map(len, piece.splitlines()))))
