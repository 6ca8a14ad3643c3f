"""Splits text into words, also in languages written without spaces."""

import re

# as in scikit-learn: two or more letters, digits or underscores
_WORD = re.compile(r"\b\w\w+\b")
# Thai, Lao, Tibetan, Burmese, Khmer; Japanese and Chinese, with their extensions and half-width forms
_UNSPACED = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003ffff]+"
)
# longer than any word, such as a genome sequence or a line of base64
_LONGEST_WORD = 64
_PIECE = 3


def words(text: str) -> list[str]:
    """The words by which documents are compared, in lower case.

    In a script without spaces between words, a whole sentence would be one word that occurs in no other document. There
    every character and every pair of adjacent characters counts as a word, as in Lucene's ``CJKAnalyzer``. A string
    that is longer than any word is split into all runs of three characters.

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
