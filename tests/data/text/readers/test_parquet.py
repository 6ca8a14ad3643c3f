"""Text columns of every type that Parquet writers use, and columns that are not text."""

import pytest

from lightning_dga.data import DataError
from lightning_dga.data.text import DocumentStream, folder_domains

pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow: pip install lightning-dga[text]")

TEXTS = ["one", "zwei ü", "one", ""]
PLAIN = pyarrow.array(TEXTS)


def stream(path, columns, names=("text",)):
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_arrays(columns, names=list(names)), path, row_group_size=3)
    return DocumentStream(path)


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view", "binary", "large_binary", "binary_view"])
@pytest.mark.parametrize("dictionary", [False, True])
def test_every_kind_of_string(tmp_path, kind, dictionary):
    if dictionary and "view" in kind:
        pytest.skip("pyarrow makes no dictionary of views")
    column = PLAIN
    for name in ("binary", kind) if "binary" in kind else (kind,):
        column = column.cast(getattr(pyarrow, name)())
    documents = stream(tmp_path / "a.parquet", [column.dictionary_encode() if dictionary else column])
    assert list(documents) == TEXTS
    iterator = iter(documents)
    assert [next(iterator), next(iterator)] == TEXTS[:2]
    again = DocumentStream(tmp_path / "a.parquet")
    again.load_state_dict(documents.state_dict())
    assert list(again) == TEXTS[2:]


@pytest.mark.parametrize(
    "column, message",
    [
        (pyarrow.array(["a", "b", "c", None]).dictionary_encode(), "row 3: 'text' is null"),
        (pyarrow.array([b"a", b"b", b"c", b"\xff"]), "row 3: not UTF-8"),
        (pyarrow.nulls(2), "is of type null, expected string"),
        (pyarrow.array([["a"], ["b"]]), "is of type list<.*, expected string"),
        (pyarrow.array([{"text": "a"}]), "is of type struct<.*, expected string"),
        (pyarrow.array([1, 2]).dictionary_encode(), "expected string"),
    ],
)
def test_what_is_no_text_is_named(tmp_path, column, message):
    documents = stream(tmp_path / "a.parquet", [column])
    with pytest.raises(DataError, match=rf"a\.parquet.*{message}"):
        list(documents)


def test_two_columns_of_one_name(tmp_path):
    with pytest.raises(DataError, match=r"a\.parquet: 2 columns are called 'text'; rename"):
        list(stream(tmp_path / "a.parquet", [PLAIN, PLAIN], ("text", "text")))
    assert list(stream(tmp_path / "b.parquet", [PLAIN, PLAIN, PLAIN], ("id", "text", "id"))) == TEXTS
    with pytest.raises(DataError, match=r"no column 'text'; found 'body'.*`field`"):
        list(stream(tmp_path / "c.parquet", [PLAIN], ("body",)))


def test_partitioned_folders(tmp_path):
    for part in ("lang=en/year=2019/a.parquet", "lang=no/year=2020/b.PARQUET"):
        stream(tmp_path / "wiki" / part, [PLAIN])
    for name in ("_SUCCESS", "_metadata", "_common_metadata"):
        (tmp_path / "wiki" / name).write_text("")
    assert list(folder_domains(tmp_path)["wiki"]) == TEXTS * 2
