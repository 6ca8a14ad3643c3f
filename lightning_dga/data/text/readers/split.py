"""A part of a file that can be read alone."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Split:
    """A part of a file.

    Attributes:
        url: The file.
        begin: Where the part begins: a byte of a file of lines, a row group of a Parquet file.
        end: Where it ends, not included; ``None`` at the end of the file.
        size: About how many bytes of data it holds, where the file tells; else ``None``.
    """

    url: str
    begin: int = 0
    end: int | None = None
    size: int | None = None
