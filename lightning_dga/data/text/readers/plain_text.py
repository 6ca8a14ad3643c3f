"""Reads documents of plain text, one per file."""

from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_LE
from collections.abc import Iterator

from lightning_dga.data.errors import DataError
from lightning_dga.data.text.readers.files import damage, open_file
from lightning_dga.data.text.readers.json_lines import encoding_hint
from lightning_dga.data.text.readers.split import Split


def split_text(url: str) -> list[Split]:
    """The whole file as a single part."""
    return [Split(url)]


def read_text(split: Split, field: str = "", at: int = 0) -> Iterator[tuple[int, str]]:
    """Reads the document of a file.

    Args:
        split: The file.
        field: Ignored; the other formats need it.
        at: 1 if the document was already read, so that nothing is left.

    Returns:
        1, and the text.

    Raises:
        DataError: If the file is neither UTF-8 nor UTF-16 with a byte order mark, or is compressed and truncated or
            damaged; the message names the file and the byte.
    """
    if at:
        return
    try:
        with open_file(split.url) as file:
            content = file.read()
    except damage() as error:
        raise DataError(f"{split.url}: cannot be read ({type(error).__name__}: {error}).") from error
    try:
        yield 1, content.decode(_encoding(content))
    except UnicodeDecodeError as error:
        reason = encoding_hint(content) or f"{error.reason} at byte {error.start}"
        raise DataError(f"{split.url}: not UTF-8 ({reason}).") from error


def _encoding(content: bytes) -> str:
    """UTF-8, unless a byte order mark says UTF-16; the mark is not part of the text."""
    if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) and not content.startswith(BOM_UTF32_LE):
        return "utf-16"
    return "utf-8-sig" if content.startswith(BOM_UTF8) else "utf-8"
