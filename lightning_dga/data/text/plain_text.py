"""Documents of plain text: one per file."""

from collections.abc import Iterator

from lightning_dga.data.errors import DataError
from lightning_dga.data.text.files import damage, open_file
from lightning_dga.data.text.split import Split


def split_text(url: str) -> list[Split]:
    """The file as a whole."""
    return [Split(url)]


def read_text(split: Split, field: str = "", at: int = 0) -> Iterator[tuple[int, str]]:
    """Reads the document of a file.

    Args:
        split: The file.
        field: Of no use here.
        at: 1 if the document was read already.

    Returns:
        1, and the text.

    Raises:
        DataError: If the file is not UTF-8, or is compressed and cut off or damaged. Names the file, and the byte.
    """
    if at:
        return
    try:
        with open_file(split.url) as file:
            content = file.read()
    except damage() as error:
        raise DataError(f"{split.url}: cannot be read ({type(error).__name__}: {error}).") from error
    try:
        yield 1, content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{split.url}: not UTF-8 ({error.reason} at byte {error.start}).") from error
