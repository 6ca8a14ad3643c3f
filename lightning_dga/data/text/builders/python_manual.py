"""The Python language reference that every complete installation ships for ``help()``."""

import ast
import re
from pathlib import Path

from lightning_dga.data.errors import DataError

_PARAGRAPH_END = re.compile(r"\n\s*\n")


def manual_topics(library: Path) -> list[list[str]]:
    """Reads the manual's topics, each paragraph once.

    Topics overlap: long ones contain chapters, and short ones repeat sections of them. A paragraph is kept only in the
    longest topic that contains it, so that it cannot be on both sides of a split.

    Args:
        library: The folder of the standard library.

    Returns:
        The paragraphs of each topic that has any left; topics from the longest to the shortest.

    Raises:
        DataError: If this Python lacks the manual; names the package that has it.
    """
    file = library / "pydoc_data" / "topics.py"
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            f"This Python lacks its manual, {file}; it is a minimal build. Install the complete standard library (on "
            "Debian and Ubuntu the package libpython3.X-stdlib), or give your own, `folder_corpus(folder, target)`."
        ) from error
    values = [statement.value for statement in tree.body if isinstance(statement, ast.Assign)]
    if len(values) != 1:
        raise DataError(f"{file}: expected one dictionary of topics, found {len(values)} assignments.")
    topics: dict[str, str] = ast.literal_eval(values[0])
    seen: set[str] = set()
    result: list[list[str]] = []
    for _, text in sorted(topics.items(), key=lambda topic: (-len(topic[1]), topic[0])):
        paragraphs = []
        for paragraph in _PARAGRAPH_END.split(text.strip()):
            words = " ".join(paragraph.split())
            if words and words not in seen:
                seen.add(words)
                paragraphs.append(paragraph.rstrip())
        if paragraphs:
            result.append(paragraphs)
    return result
