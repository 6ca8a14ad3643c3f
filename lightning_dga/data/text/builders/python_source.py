"""Extracts code, docstrings, comments and messages from Python source files, without importing them."""

import ast
import hashlib
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

# tests, and packages that a distribution may leave out or a Python version lacks; the manual and the code pages are
# domains of their own
_SKIPPED_FOLDERS = frozenset(
    {"distutils", "encodings", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "tkinter", "turtledemo"}
    | {"test", "tests", "site-packages", "dist-packages"}
)
# machine-specific files, with paths, flags and local additions
_SKIPPED_FILES = re.compile(r"_sysconfig|sitecustomize|usercustomize")

_MESSAGE = re.compile(r".*(?:[A-Za-z',]{2,} ){3}[A-Za-z']{2,}.*")
_TABLE_ROW = re.compile(r" {4}['\"0].*")


def source_files(library: Path) -> list[Path]:
    """The ``.py`` files of the packages in a folder, in a fixed pseudo-random order.

    The first few of them therefore come from all parts of the library.
    """
    files = [*_modules(library)]
    return sorted(files, key=lambda file: hashlib.sha256(file.relative_to(library).as_posix().encode()).digest())


def read_source(file: Path) -> str:
    """The text of a source file, in the encoding that it declares."""
    with tokenize.open(file) as stream:
        return stream.read()


def code(source: str) -> list[str]:
    """The top-level statements, without docstrings and comments, as :func:`ast.unparse` writes them."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [statement for statement in body if not _is_string(statement)]
            node.body = kept if kept or isinstance(node, ast.Module) else [ast.Pass()]  # type: ignore[attr-defined]
    return [ast.unparse(statement) for statement in tree.body]


def docstrings(source: str) -> list[str]:
    """The docstrings of the module, its classes and functions, without their indentation."""
    documented = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
    found = [ast.get_docstring(node) for node in ast.walk(ast.parse(source)) if isinstance(node, documented)]
    return [text for text in found if text]


def comments(source: str) -> list[str]:
    """The comments without their ``#``; those on consecutive lines are one."""
    found: list[list[str]] = []
    previous = -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if token.start[0] != previous + 1:
                found.append([])
            found[-1].append(token.string.lstrip("#").strip())
            previous = token.start[0]
    return ["\n".join(lines).strip() for lines in found if any(lines)]


def messages(source: str) -> list[str]:
    """String constants of one line with at least four words, but no docstrings: errors, warnings, usage texts."""
    # the compiler, told to strip docstrings, collects the constants much faster than a walk of the syntax tree
    return [
        text
        for text in map(str.strip, _constants(compile(source, "<source>", "exec", optimize=2)))
        if _MESSAGE.fullmatch(text)
    ]


def table_rows(source: str) -> list[str]:
    """The lines of dictionaries and tables of constants: code points and their names, aliases, entities."""
    return [line.strip() for line in source.splitlines() if _TABLE_ROW.fullmatch(line)]


def _constants(compiled: CodeType) -> Iterator[str]:
    for constant in compiled.co_consts:
        if isinstance(constant, str):
            yield constant
        elif isinstance(constant, CodeType):
            yield from _constants(constant)


def _modules(folder: Path) -> Iterator[Path]:
    for entry in folder.iterdir():
        if entry.suffix == ".py" and not _SKIPPED_FILES.match(entry.name):
            yield entry
        elif entry.name not in _SKIPPED_FOLDERS and (entry / "__init__.py").is_file():
            yield from _modules(entry)


def _is_string(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
