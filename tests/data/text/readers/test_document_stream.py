"""Documents from files of every kind: read lazily, in parts, local or remote, with errors that name the location."""

import gzip
import json

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_dga import MixtureDataModule
from lightning_dga.data import DataError
from lightning_dga.data.text import DocumentStream, read_jsonl
from lightning_dga.data.text.readers.files import open_file
from lightning_dga.data.text.readers.json_lines import read_lines, split_lines
from tests.helpers.toys import Points

pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow: pip install lightning-dga[text]")

TEXTS = [f"document {i} ü" + "x" * (i % 7) for i in range(25)]


def zstd():
    from lightning_dga.data.text.readers.files import _zstd

    return _zstd()


def as_lines(texts=TEXTS):
    return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts).encode()


def as_parquet(path, texts=TEXTS, rows=4):
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"id": list(range(len(texts))), "text": texts}), path, row_group_size=rows)
    return path


def write(path, content):
    path.write_bytes(content)
    return path


@pytest.fixture(params=["jsonl", "jsonl.gz", "jsonl.zst", "parquet", "txt", "txt.gz"])
def files(request, tmp_path):
    """One file, or as many as it takes, in a folder."""
    pack = {"gz": gzip.compress, "zst": zstd().compress}.get(request.param.rpartition(".")[2], lambda content: content)
    if request.param == "parquet":
        as_parquet(tmp_path / "a.parquet")
    elif "txt" in request.param:
        for number, text in enumerate(TEXTS):
            write(tmp_path / f"{number:02}.{request.param}", pack(text.encode()))
    else:
        write(tmp_path / f"a.{request.param}", pack(as_lines()))
    return tmp_path


def test_every_document_in_order(files):
    assert list(DocumentStream(files)) == TEXTS


def test_it_goes_on_from_the_state_at_any_document(files):
    stream = DocumentStream(files, seed=1)
    stream.set_epoch(2)
    whole = list(stream)
    documents = iter(stream)
    for number in range(len(whole)):
        assert next(documents) == whole[number]
        again = DocumentStream(files, seed=1)
        again.set_epoch(2)
        again.load_state_dict(json.loads(json.dumps(stream.state_dict())))
        assert list(again) == whole[number + 1 :]


def test_shards_hold_every_document_once(files):
    stream = DocumentStream(files)
    parts = [list(stream.shard(num_shards=stream.num_shards, index=i)) for i in range(stream.num_shards)]
    assert sorted(sum(parts, [])) == sorted(TEXTS)


def test_parts_come_in_another_order_each_pass(tmp_path):
    stream = DocumentStream(as_parquet(tmp_path / "a.parquet"), seed=0)
    passes = []
    for epoch in range(3):
        stream.set_epoch(epoch)
        passes.append(list(stream))
    assert all(sorted(one) == sorted(TEXTS) for one in passes)
    assert len({tuple(one) for one in passes}) == 3


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(max_size=9), max_size=12), size=st.integers(1, 60), newline=st.booleans())
def test_parts_of_a_file_of_lines_hold_every_line_once_wherever_they_are_cut(tmp_path_factory, texts, size, newline):
    file = tmp_path_factory.mktemp("cut") / "a.jsonl"
    content = as_lines(texts)
    write(file, content if newline else content.removesuffix(b"\n"))
    parts = [[text for _, text in read_lines(split, "text")] for split in split_lines(str(file), size)]
    assert sum(parts, []) == texts


def test_a_row_group_is_read_when_it_is_reached(tmp_path, monkeypatch):
    from pyarrow import parquet

    read = []
    original = parquet.ParquetFile.iter_batches

    def iter_batches(self, *arguments, row_groups, columns, **rest):
        read.append((row_groups, columns))
        return original(self, *arguments, row_groups=row_groups, columns=columns, **rest)

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", iter_batches)
    documents = iter(DocumentStream(as_parquet(tmp_path / "a.parquet", rows=10)))
    for _ in range(11):
        next(documents)
    assert read == [([0], ["text"]), ([1], ["text"])]


def test_files_may_be_remote():
    """``memory://`` stands for every kind of URL that fsspec knows."""
    with fsspec.open("memory://corpus/a.jsonl", "wb") as file:
        file.write(as_lines(TEXTS[:5]))
    with fsspec.open("memory://corpus/b.jsonl.gz", "wb") as file:
        file.write(gzip.compress(as_lines(TEXTS[5:])))
    assert list(DocumentStream("memory://corpus")) == TEXTS
    assert list(DocumentStream("memory://corpus/*.gz")) == TEXTS[5:]


def test_several_frames_are_one_file(tmp_path):
    half = len(TEXTS) // 2
    parts = zstd().compress(as_lines(TEXTS[:half])) + zstd().compress(as_lines(TEXTS[half:]))
    assert list(DocumentStream(write(tmp_path / "a.jsonl.zst", parts))) == TEXTS
    parts = gzip.compress(as_lines(TEXTS[:half])) + gzip.compress(as_lines(TEXTS[half:]))
    assert list(read_jsonl(write(tmp_path / "a.jsonl.gz", parts))) == TEXTS


def test_files_are_closed_again(tmp_path):
    for name, content in {"a.jsonl": as_lines(), "b.jsonl.gz": gzip.compress(as_lines())}.items():
        with open_file(str(write(tmp_path / name, content))) as file:
            raw = getattr(file, "_file", file)
        assert raw.closed


def fails(files, **arguments):
    with pytest.raises((DataError, FileNotFoundError)) as error:
        list(DocumentStream(files, **arguments))
    return str(error.value)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.txt.gz"])
def test_a_compressed_file_that_is_cut_off_is_an_error_and_not_an_end(tmp_path, name):
    content = as_lines([text * 1000 for text in TEXTS])
    packed = gzip.compress(content) if name.endswith("gz") else zstd().compress(content)
    file = write(tmp_path / name, packed[: len(packed) // 2])
    assert f"{file}" in fails(file) and "EOFError" in fails(file)


def test_a_compressed_file_that_is_none_is_named(tmp_path):
    assert "BadGzipFile" in fails(write(tmp_path / "a.jsonl.gz", as_lines()))
    assert "ZstdError" in fails(write(tmp_path / "a.jsonl.zst", as_lines()))


def test_a_parquet_file_that_is_cut_off_or_none_is_named(tmp_path):
    content = as_parquet(tmp_path / "whole.parquet").read_bytes()
    for broken in (content[: len(content) // 2], b"", b"hello"):
        file = write(tmp_path / "a.parquet", broken)
        assert f"{file}: cannot be read as Parquet" in fails(file)


def test_a_damaged_row_group_is_named(tmp_path):
    content = bytearray(as_parquet(tmp_path / "a.parquet").read_bytes())
    content[60:200] = b"\xff" * 140
    assert "a.parquet: cannot be read as Parquet" in fails(write(tmp_path / "a.parquet", bytes(content)))


def test_parquet_without_the_column_or_with_another_type_or_a_null_is_named(tmp_path):
    assert "no column 'body'; found 'id', 'text'" in fails(as_parquet(tmp_path / "a.parquet"), field="body")
    assert "column 'id' is of type int64" in fails(as_parquet(tmp_path / "a.parquet"), field="id")
    texts = [*TEXTS[:6], None, *TEXTS[6:]]
    assert "a.parquet, row 6: 'text' is null" in fails(as_parquet(tmp_path / "a.parquet", texts))


def test_parquet_that_is_not_utf_8_names_the_row(tmp_path):
    from pyarrow import parquet

    values = pyarrow.array([b"fine", b"also", b"not \xff"]).cast(pyarrow.binary())
    column = pyarrow.StringArray.from_buffers(3, values.buffers()[1], values.buffers()[2])
    parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet")
    assert "a.parquet, row 2: not UTF-8" in fails(tmp_path / "a.parquet")


def test_a_bad_line_in_a_later_part_is_named_by_its_number_in_the_file(tmp_path):
    file = write(tmp_path / "a.jsonl", as_lines(TEXTS[:20]) + b"{broken\n" + as_lines(TEXTS[20:]))
    last = split_lines(str(file), 100)[-8:]
    with pytest.raises(DataError, match=r"a\.jsonl, line 21: not JSON"):
        for split in last:
            list(read_lines(split, "text"))


def test_text_that_is_not_utf_8_names_the_byte(tmp_path):
    assert "a.txt: not UTF-8 (invalid start byte at byte 4)" in fails(write(tmp_path / "a.txt", b"not \xff"))


def test_nothing_to_read_is_an_error(tmp_path):
    assert "nowhere" in fails(tmp_path / "nowhere")
    assert "*.jsonl" in fails(tmp_path / "*.jsonl")
    write(tmp_path / "a.csv", b"1,2")
    assert str(tmp_path) in fails(tmp_path)
    assert "a.csv: its name must end in one of .jsonl, .parquet, .txt" in fails(tmp_path / "a.csv")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_of_documents_is_a_domain_whose_errors_name_domain_file_and_line(tmp_path, workers):
    file = write(tmp_path / "a.jsonl", as_lines(TEXTS[:8]) + b"\xff\n")
    data = MixtureDataModule({"wiki": DocumentStream(file)}, Points(0, 3), batch_size=4, num_workers=workers)
    batches = iter(data.train_dataloader())
    with pytest.raises(DataError, match=r"Domain 'wiki', sample 8: .*a\.jsonl, line 9: not UTF-8"):
        for _ in range(4):
            next(batches)
    data.teardown("fit")


def parts_of(folder, kind):
    """Parts of 300, 0, 1 and 40 documents, the last of which are long."""
    parts = [[f"a{i}" for i in range(300)], [], ["b0"], [f"c{i} " + "long " * 50 for i in range(40)]]
    if kind == "row groups":
        from pyarrow import parquet

        with parquet.ParquetWriter(folder / "a.parquet", pyarrow.schema([("text", pyarrow.string())])) as writer:
            for part in parts:
                writer.write_table(pyarrow.table({"text": pyarrow.array(part, pyarrow.string())}))
    for number, part in enumerate(parts):
        if kind == "parquet":
            as_parquet(folder / f"{number}.parquet", pyarrow.array(part, pyarrow.string()), rows=50)
        elif kind != "row groups":
            write(folder / f"{number}.{kind}", gzip.compress(as_lines(part)) if kind.endswith("gz") else as_lines(part))
    return {text for part in parts for text in part}


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet", "row groups"])
def test_documents_of_parts_of_any_size_come_once_before_any_comes_again(tmp_path, kind):
    every = parts_of(tmp_path, kind)
    stream = DocumentStream(tmp_path)
    assert stream.num_shards >= 3
    data = MixtureDataModule({"wiki": stream}, Points(0, 3), batch_size=4, collate_fn=list)
    batches = iter(data.train_dataloader())
    drawn = [text for _ in range(180) for text in next(batches)]
    assert set(drawn[:341]) == set(drawn[341:682]) == every


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_within_a_pass_a_part_is_read_by_as_much_as_it_holds(tmp_path, kind):
    # as long as one another: one part holds 19 times the other's documents
    parts = [[f"a{i:05}" for i in range(1900)], [f"b{i:05}" for i in range(100)]]
    for number, part in enumerate(parts):
        if kind == "parquet":
            as_parquet(tmp_path / f"{number}.parquet", part, rows=5000)
        else:
            write(tmp_path / f"{number}.jsonl", as_lines(part))
    data = MixtureDataModule({"wiki": DocumentStream(tmp_path)}, Points(0, 3), batch_size=8, collate_fn=list)
    batches = iter(data.train_dataloader())
    drawn = [text[0] for _ in range(100) for text in next(batches)]
    # 40 of 800; a file has some bytes beside its documents
    assert 20 <= drawn.count("b") <= 60


def test_a_domain_of_empty_files_is_an_error_that_names_it(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.jsonl", b"\n")
        write(tmp_path / f"{name}.jsonl.gz", gzip.compress(b""))
    data = MixtureDataModule({"wiki": DocumentStream(tmp_path)}, Points(0, 3), batch_size=4, collate_fn=list)
    with pytest.raises(DataError, match="'wiki' is an iterable that gives no samples"):
        next(iter(data.train_dataloader()))
