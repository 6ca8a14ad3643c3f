"""Unusual JSON lines are read if they are unambiguous; otherwise an error names the file and the line."""

import json

import pytest

from lightning_dga.data import DataError
from lightning_dga.data.text import DocumentStream, read_jsonl
from lightning_dga.data.text.readers.json_lines import read_lines, split_lines

GOOD = b'{"text": "first"}\n'


@pytest.fixture(params=[DocumentStream, read_jsonl])
def read(request, tmp_path):
    def from_content(content, **arguments):
        (tmp_path / "code.jsonl").write_bytes(content)
        return list(request.param(tmp_path / "code.jsonl", **arguments))

    return from_content


@pytest.mark.parametrize(
    "number", ["7" * 5000, "-" + "7" * 5000, "[" + "1" * 9999 + "]", "1e999999", "NaN", "0." + "3" * 9999]
)
def test_numbers_beside_the_text_do_not_matter(read, number):
    assert read(GOOD + b'{"answer": %s, "text": "second"}\n' % number.encode()) == ["first", "second"]


@pytest.mark.parametrize(
    "value, found",
    [
        *(("7" * 5000, "int"), ("1.5", "float"), ("null", "NoneType"), ("true", "bool")),
        *(('["a", "b"]', "list"), ('{"en": "a"}', "dict")),
    ],
)
def test_text_that_is_no_string_is_refused(read, value, found):
    with pytest.raises(DataError, match=rf"code\.jsonl, line 2: 'text' is of type {found}, expected a string"):
        read(GOOD + b'{"text": %s}\n' % value.encode())


@pytest.mark.parametrize("depth", [2000, 200_000])
def test_deep_nesting_is_refused_or_read(read, depth):
    content = b'{"tree": %s, "text": "second"}\n' % (b"[" * depth + b"]" * depth)
    try:
        assert read(GOOD + content) == ["first", "second"]
    except DataError as error:
        assert "code.jsonl, line 2" in str(error) and "nested too deep" in str(error)


def test_the_key_of_the_text_may_occur_once(read):
    with pytest.raises(DataError, match=r"code\.jsonl, line 2: the key 'text' occurs more than once"):
        read(GOOD + b'{"text": "a", "text": "b"}\n')
    # in other places it may
    inner = {"text": 'its "text"', "meta": {"text": "x"}, "tags": ["text", {"text": 1}]}
    assert read(GOOD + json.dumps(inner).encode()) == ["first", 'its "text"']
    assert read(b'{"id": 1, "id": 2, "text": "a"}') == ["a"]


def test_a_missing_key_names_those_there_are(read):
    with pytest.raises(
        DataError, match=r"line 1: no key 'text'; found 'content', 'id'\. Name the key that holds the text with `field`"
    ):
        read(b'{"content": "a", "id": 1}')
    with pytest.raises(DataError, match=r"found 'Text'\. Did you mean 'Text'\?"):
        read(b'{"Text": "a"}')
    with pytest.raises(DataError, match="Did you mean 'texts'"):
        read(b'{"texts": "a"}')
    with pytest.raises(DataError) as error:
        read(json.dumps(dict.fromkeys(map(str, range(5000)))).encode())
    assert len(str(error.value)) < 400
    assert read(b'{"content": "a"}', field="content") == ["a"]


def test_a_byte_order_mark_is_no_part_of_a_line(read):
    mark = b"\xef\xbb\xbf"
    assert read(mark + GOOD + mark + GOOD + mark) == ["first", "first"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_other_encodings_are_named(read, encoding):
    with pytest.raises(DataError, match=r"code\.jsonl, line 1: .*UTF-16; convert it"):
        read(GOOD.decode().encode(encoding))


def test_bytes_that_are_no_text(read):
    with pytest.raises(DataError, match=r"code\.jsonl, line 2: not UTF-8"):
        read(GOOD + b'{"text": "\xff"}\n')


def test_an_array_is_refused_with_the_remedy(read):
    with pytest.raises(DataError, match=r"line 1: a JSON list, expected an object.*one object on each line"):
        read(b'[{"text": "a"}, {"text": "b"}]')
    with pytest.raises(DataError, match=r"line 1: not JSON .*one object on each line"):
        read(b'{\n  "text": "a"\n}')


def test_a_line_may_be_long_and_of_many_parts(tmp_path):
    text = "x" * (1 << 20)
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text}) + "\n" + json.dumps({"text": "y"}))
    parts = [[text for _, text in read_lines(split, "text")] for split in split_lines(str(tmp_path / "a.jsonl"), 1000)]
    assert sum(parts, []) == [text, "y"]
