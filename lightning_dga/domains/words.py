"""The words of a text, of languages that are written without spaces too."""

import re

# as scikit-learn has it: two letters, digits or underscores, and more
_WORD = re.compile(r"\b\w\w+\b")
# Thai, Lao, Tibetan, Burmese, Khmer; Japanese and Chinese, with their extensions and half-width forms
_UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003ffff]+"
)
# longer than any word: a sequence of a genome, a line of base64
_LONGEST_WORD = 64
_PIECE = 3


def words(text: str) -> list[str]:
    """The words that documents are compared by, in lower case.

    Where a script has no spaces between words, a whole sentence would be one word that no other document has. There,
    every character and every pair of neighbours counts as a word, as in Lucene's ``CJKAnalyzer``. What is longer than
    any word counts by the runs of three characters in it.

    Example:
        >>> words("A list of 3 words"), words("GPU、东京都 2")
        (['list', 'of', 'words'], ['gpu', '东', '京', '都', '东京', '京都'])
    """
    text = text.lower()
    found: list[str] = []
    for word in _WORD.findall(_UNSPACED.sub(" ", text)):
        found += [word] if len(word) <= _LONGEST_WORD else _runs(word, _PIECE)
    for run in _UNSPACED.findall(text):
        found += [*_runs(run, 1), *_runs(run, 2)]
    return found


def _runs(text: str, length: int) -> list[str]:
    return [text[start : start + length] for start in range(len(text) - length + 1)]
