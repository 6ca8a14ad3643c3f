"""Compressed files of every kind are read completely, whatever the case of their names."""

import bz2
import gzip
import json
import lzma

import pytest

from lightning_dga.data import DataError
from lightning_dga.data.text import DocumentStream, read_jsonl
from lightning_dga.data.text.readers.files import _zstd, kind, stem

CONTENT = b"".join(json.dumps({"text": f"document {i}"}).encode() + b"\n" for i in range(9))
TEXTS = [f"document {i}" for i in range(9)]
CUT = CONTENT.index(b"\n") + 1


def with_window(log):
    def compress(content):
        zstd = _zstd()
        parameters = zstd.CompressionParameter
        compressor = zstd.ZstdCompressor(options={parameters.window_log: log, parameters.content_size_flag: 0})
        return compressor.compress(content) + compressor.flush()

    return compress


@pytest.mark.parametrize("log", [27, 28, 31])
def test_zstandard_with_a_long_window(tmp_path, log):
    (tmp_path / "a.jsonl.zst").write_bytes(with_window(log)(CONTENT))
    assert list(DocumentStream(tmp_path / "a.jsonl.zst")) == TEXTS
    assert list(read_jsonl(tmp_path / "a.jsonl.zst")) == TEXTS


@pytest.mark.parametrize(
    "name, compress",
    [
        *(("a.jsonl.xz", lzma.compress), ("a.jsonl.bz2", bz2.compress), ("A.JSONL.XZ", lzma.compress)),
        *(("a.JSONL.GZ", gzip.compress), ("a.ndjson.zst", with_window(28)), ("a.Json.Bz2", bz2.compress)),
    ],
)
def test_several_streams_in_one_file_and_what_is_cut_off(tmp_path, name, compress):
    whole = compress(CONTENT[:CUT]) + compress(CONTENT[CUT:])
    (tmp_path / name).write_bytes(whole)
    stream = DocumentStream(tmp_path)
    assert list(stream) == TEXTS
    documents = iter(stream)
    assert next(documents) == TEXTS[0]
    again = DocumentStream(tmp_path)
    again.load_state_dict(stream.state_dict())
    assert list(again) == TEXTS[1:]
    (tmp_path / name).write_bytes(whole[:-3])
    with pytest.raises(DataError, match=rf"{name}.*cannot be read"):
        list(DocumentStream(tmp_path / name))


def test_a_compressed_file_by_a_plain_name_is_told_of(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(gzip.compress(CONTENT))
    with pytest.raises(DataError, match=r"a\.jsonl, line 1: not UTF-8 \(it is compressed by gzip; let its name end"):
        list(DocumentStream(tmp_path / "a.jsonl"))
    (tmp_path / "b.jsonl.gz").write_bytes(CONTENT)
    with pytest.raises(DataError, match=r"b\.jsonl\.gz.*Not a gzipped file"):
        list(DocumentStream(tmp_path / "b.jsonl.gz"))


def test_kinds_and_stems():
    assert [kind(name) for name in ("a.TXT.Gz", "a.pq", "a.tar.gz", "a", "a.gz")] == ["txt", "parquet", "tar", "", ""]
    assert [stem(name) for name in ("a.b.jsonl.zst", "A.JSONL.GZ", "v1.5.parquet")] == ["a.b", "A", "v1.5"]
