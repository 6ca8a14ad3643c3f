"""A file is one document, unchanged, in the encoding given by its byte order mark."""

import pytest

from lightning_dga.data import DataError
from lightning_dga.data.text import DocumentStream, read_folder


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("text", ["", "zwei ü\r\n中文\n", "\n\n"])
def test_the_mark_is_no_part_of_the_text(tmp_path, text, encoding):
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    assert list(DocumentStream(tmp_path)) == [text]
    assert list(read_folder(tmp_path)) == [text]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-32", "utf-16-le"])
def test_other_encodings_are_refused(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes("öl ÿ".encode(encoding))
    with pytest.raises(DataError, match=r"a\.txt: not UTF-8"):
        list(DocumentStream(tmp_path))
