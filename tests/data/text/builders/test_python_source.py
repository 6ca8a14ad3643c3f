import ast

from lightning_dga.data.text.builders.python_source import (
    code,
    comments,
    docstrings,
    messages,
    source_files,
    table_rows,
)

SOURCE = '''"""Module text."""
# first
# second

import os  # trailing

class Thing:
    """Class text.

    More of it:
        indented.
    """
    size = 1
    "about size"

def nothing():
    "Only a docstring of many words."

async def fail(x):
    # inside
    if x:
        "a statement"
    raise ValueError("the value is not # valid here", "short")
'''


def test_code_has_no_docstrings_and_no_comments_and_still_parses():
    statements = code(SOURCE)
    text = "\n".join(statements)
    ast.parse(text)
    for gone in ("text", "indented", "docstring", "statement", "about", "first", "trailing", "inside"):
        assert gone not in text
    assert statements[0] == "import os"
    assert "def nothing():\n    pass" in statements
    assert "raise ValueError('the value is not # valid here', 'short')" in text


def test_docstrings():
    assert docstrings(SOURCE) == [
        "Module text.",
        "Class text.\n\nMore of it:\n    indented.",
        "Only a docstring of many words.",
    ]


def test_comments_of_consecutive_lines_are_one():
    assert comments(SOURCE) == ["first\nsecond", "trailing", "inside"]
    assert comments("#\n#   \nx = '# no'\n") == []


def test_messages_are_long_strings_that_are_used():
    assert messages(SOURCE) == ["the value is not # valid here"]
    assert messages("x = 'one two three four\\nlines'\n'a lone string of words'\n") == []


def test_table_rows():
    source = "x = {\n    0x41: 'A',  # LATIN\n    'é': 2,\n    name: 3,\n        0x42: 1,\n}\n"
    assert table_rows(source) == ["0x41: 'A',  # LATIN", "'é': 2,"]


def test_source_files_are_those_of_packages(tmp_path):
    kept = ["os.py", "json/__init__.py", "json/decoder.py", "xml/__init__.py", "xml/dom/__init__.py"]
    left = [
        "test/__init__.py",
        "test/test_os.py",
        "json/tests/__init__.py",
        "site-packages/__init__.py",
        "site-packages/torch.py",
        "idlelib/__init__.py",
        "config-3.11/x.py",
        "_sysconfigdata__linux.py",
        "sitecustomize.py",
        "notes.txt",
    ]
    for name in kept + left:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [file.relative_to(tmp_path).as_posix() for file in source_files(tmp_path)]
    assert sorted(found) == sorted(kept)
    assert found != sorted(kept)
