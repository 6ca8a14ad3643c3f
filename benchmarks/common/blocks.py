"""Holding documents back from a file: blocks of consecutive lines, as neighbours are often of one document."""

from pathlib import Path

BLOCK = 10


def split(file: Path, every: int) -> tuple[list[str], list[str]]:
    """Lines of a file without every so manieth block of them, and those blocks."""
    kept: list[str] = []
    held: list[str] = []
    with file.open(encoding="utf-8") as lines:
        for index, line in enumerate(lines):
            (held if index // BLOCK % every == every - 1 else kept).append(line)
    return kept, held
