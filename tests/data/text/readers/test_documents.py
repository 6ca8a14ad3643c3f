import json

import pytest

from lightning_dga.data.errors import DataError
from lightning_dga.data.text import read_folder, read_jsonl


def write(path, *lines):
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def test_jsonl_documents_in_order(tmp_path):
    file = write(tmp_path / "d.jsonl", b'{"text": "one"}', b"", b'{"text": "zwei \xc3\xbc", "id": 3}', b'{"text": ""}')
    assert list(read_jsonl(file)) == ["one", "zwei ü", ""]


def test_jsonl_other_field(tmp_path):
    file = write(tmp_path / "d.jsonl", b'{"text": "no", "body": "yes"}')
    assert list(read_jsonl(str(file), field="body")) == ["yes"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "cut', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'["text"]', "a JSON list"),
        (b'{"txt": "a"}', "no key 'text'; found 'txt'"),
        (b'{"text": 3}', "of type int"),
        (b'{"text": null}', "of type NoneType"),
        (b'{"text": "\xff"}', "not UTF-8"),
        (b'{"text": "\\ud800"}', "not valid Unicode"),
    ],
)
def test_jsonl_names_file_and_line(tmp_path, line, reason):
    file = write(tmp_path / "wiki.jsonl", b'{"text": "fine"}', b"", line, b'{"text": "after"}')
    documents = read_jsonl(file)
    assert next(documents) == "fine"
    with pytest.raises(DataError) as error:
        next(documents)
    assert f"{file}, line 3: " in str(error.value)
    assert reason in str(error.value)


def test_jsonl_is_lazy(tmp_path):
    file = write(tmp_path / "d.jsonl", *(json.dumps({"text": str(i)}).encode() for i in range(3)), b"broken")
    documents = read_jsonl(file)
    assert [next(documents) for _ in range(3)] == ["0", "1", "2"]


def test_jsonl_without_documents(tmp_path):
    file = write(tmp_path / "empty.jsonl", b"", b"  ")
    with pytest.raises(DataError, match=r"empty\.jsonl: no document"):
        list(read_jsonl(file))


def test_missing_jsonl_is_named_at_once(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.jsonl"):
        read_jsonl(tmp_path / "nothing.jsonl")


def test_folder_is_sorted(tmp_path):
    for name in ("b.txt", "a.txt", "sub/c.txt", "a/z.txt", "skip.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"ü {name}", encoding="utf-8")
    (tmp_path / "folder.txt").mkdir()
    assert list(read_folder(tmp_path)) == ["ü a/z.txt", "ü a.txt", "ü b.txt", "ü sub/c.txt"]
    assert list(read_folder(tmp_path, "*.md")) == ["ü skip.md"]


def test_folder_names_the_file_that_is_not_utf8(tmp_path):
    (tmp_path / "a.txt").write_text("fine")
    (tmp_path / "b.txt").write_bytes(b"ab\xff")
    documents = read_folder(tmp_path)
    assert next(documents) == "fine"
    with pytest.raises(DataError, match=r"b\.txt: not UTF-8 \(.* at byte 2\)"):
        next(documents)


def test_missing_folder_is_named_at_once(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_folder(tmp_path / "nowhere")


def test_folder_without_match(tmp_path):
    with pytest.raises(DataError, match=r"no file matches '\*\*/\*\.txt'"):
        read_folder(tmp_path)
