"""A part of a file that can be read independently of the others."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Split:
    """A part of a file.

    Attributes:
        url: The file.
        begin: Start of the part: a byte of a file of lines, a row group of a Parquet file.
        end: End of the part, exclusive; ``None`` for the end of the file.
        size: Approximate number of bytes of data, if the file declares it; else ``None``.
    """

    url: str
    begin: int = 0
    end: int | None = None
    size: int | None = None
