"""Reads documents from Parquet files, one per row."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning_dga.data.errors import DataError
from lightning_dga.data.text.readers.files import open_file
from lightning_dga.data.text.readers.split import Split

_ROWS_AT_ONCE = 1024


def split_row_groups(url: str) -> list[Split]:
    """The row groups of a file.

    Raises:
        DataError: If it is not a Parquet file, or is truncated.
        ImportError: If ``pyarrow`` is not installed.
    """
    with _open(url) as file:
        groups = range(file.num_row_groups)
        return [Split(url, group, group + 1, file.metadata.row_group(group).total_byte_size) for group in groups]


def read_rows(split: Split, field: str, at: int = 0) -> Iterator[tuple[int, str]]:
    """Reads the documents of a row group: only the column that holds them, some rows at a time.

    Args:
        split: The row group.
        field: The column that holds the text.
        at: Where to start: 0, or the position that was returned with the last document read.

    Returns:
        For each document the number of the next row, and the text.

    Raises:
        DataError: If there is not exactly one such column of strings (or of UTF-8 bytes), a row is null, or the file is
            damaged; the message names the file, and the row, counted from 0 over the whole file.
        ImportError: If ``pyarrow`` is not installed.
    """
    with _open(split.url) as file:
        _check_column(file, field, split.url)
        first = sum(file.metadata.row_group(group).num_rows for group in range(split.begin))
        row = 0
        for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[split.begin], columns=[field]):
            if row + len(batch) <= at:
                row += len(batch)
                continue
            for text in _strings(batch.column(0), split.url, first + row):
                row += 1
                if row <= at:
                    continue
                if text is None:
                    raise DataError(f"{split.url}, row {first + row - 1}: {field!r} is null, expected a string.")
                yield row, text


@contextmanager
def _open(url: str) -> Iterator[Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError("Parquet files need `pyarrow`: pip install 'lightning-dga[text]'") from error
    with open_file(url) as raw:
        try:
            with parquet.ParquetFile(raw) as file:
                yield file
        except (pyarrow.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{url}: cannot be read as Parquet ({type(error).__name__}: {reason}).") from error


def _strings(column: Any, url: str, first: int) -> list[str | None]:
    try:
        values = column.to_pylist()
        # older versions of Spark and Impala write strings as bytes, without the logical type
        return [value.decode("utf-8") if isinstance(value, bytes) else value for value in values]
    except UnicodeDecodeError:
        for row, value in enumerate(column, start=first):
            try:
                found = value.as_py()
                if isinstance(found, bytes):
                    found.decode("utf-8")
            except UnicodeDecodeError as error:
                raise DataError(f"{url}, row {row}: not UTF-8 ({error.reason} at byte {error.start}).") from error
        raise


def _check_column(file: Any, field: str, url: str) -> None:
    schema = file.schema_arrow
    found = schema.get_all_field_indices(field)
    if not found:
        raise DataError(
            f"{url}: no column {field!r}; found {', '.join(map(repr, schema.names))}. Name the one that "
            "holds the text with `field`."
        )
    if len(found) > 1:
        raise DataError(f"{url}: {len(found)} columns are called {field!r}; rename all but the one to read.")
    column = schema.field(found[0]).type
    if not _is_text(column):
        raise DataError(f"{url}: column {field!r} is of type {column}, expected string.")


def _is_text(column: Any) -> bool:
    import pyarrow

    types = pyarrow.types
    if types.is_dictionary(column):
        column = column.value_type
    elif isinstance(column, pyarrow.BaseExtensionType):
        column = column.storage_type
    # views were added in pyarrow 16
    tests = ("is_string", "is_large_string", "is_string_view", "is_binary", "is_large_binary", "is_binary_view")
    return any(getattr(types, test)(column) for test in tests if hasattr(types, test))
