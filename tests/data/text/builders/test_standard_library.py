import re
import sys
import sysconfig
from pathlib import Path

import pytest

from lightning_dga.data.errors import DataError
from lightning_dga.data.text import standard_library_corpus
from lightning_dga.data.text.builders import standard_library
from lightning_dga.data.text.builders.python_manual import manual_topics
from lightning_dga.data.text.builders.standard_library import DOMAIN_CHARACTERS, MANUAL_CHARACTERS


@pytest.fixture(scope="module")
def corpus():
    return standard_library_corpus()


def size(documents):
    return sum(map(len, documents))


def paragraphs(documents):
    return {" ".join(part.split()) for text in documents for part in re.split(r"\n\s*\n", text) if len(part) > 60}


def test_domains_are_of_the_documented_size(corpus):
    assert list(corpus.domains) == ["code", "comments", "docstrings", "manual", "messages", "tables"]
    for name, documents in corpus.domains.items():
        assert size(documents) <= DOMAIN_CHARACTERS
        assert size(documents) > (60_000 if name in ("manual", "messages") else 0.95 * DOMAIN_CHARACTERS), name
        assert len(documents) == len(set(documents)), name
    assert 0.9 * MANUAL_CHARACTERS < size(corpus.domains["manual"]) <= MANUAL_CHARACTERS


def test_target_is_small_and_the_test_set_is_not(corpus):
    assert len(corpus.target) == 8
    assert size(corpus.val) > 40_000
    assert size(corpus.test) > 100_000


def test_nothing_held_out_is_anywhere_else(corpus):
    parts = {**corpus.domains, "target": corpus.target, "val": corpus.val, "test": corpus.test}
    found = {name: paragraphs(documents) for name, documents in parts.items()}
    for held_out in ("target", "val", "test"):
        assert found[held_out]
        for name, others in found.items():
            if name != held_out:
                assert not found[held_out] & others, (held_out, name)


def test_domains_differ(corpus):
    start = {name: "\n".join(documents)[:100_000] for name, documents in corpus.domains.items()}
    shares = {name: text.count("self.") / len(text) * 1000 for name, text in start.items()}
    assert shares["code"] > 5 * max(share for name, share in shares.items() if name != "code")
    hexadecimal = {name: text.count("0x") for name, text in start.items()}
    assert hexadecimal["tables"] > 5 * max(count for name, count in hexadecimal.items() if name != "tables")


def test_nothing_is_imported(corpus):
    assert not {"antigravity", "this", "turtle", "pydoc_data.topics"} & set(sys.modules)


def test_same_text_in_whatever_order_folders_are_listed(monkeypatch):
    monkeypatch.setattr(standard_library, "DOMAIN_CHARACTERS", 20_000)
    first = standard_library_corpus()
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda folder: reversed([*listed(folder)]))
    assert standard_library_corpus() == first


def fake_library(tmp_path, monkeypatch, topics):
    (tmp_path / "encodings").mkdir()
    (tmp_path / "html").mkdir()
    (tmp_path / "html" / "entities.py").touch()
    if topics is not None:
        (tmp_path / "pydoc_data").mkdir()
        (tmp_path / "pydoc_data" / "topics.py").write_text(f"# header\ntopics = {topics!r}\n", encoding="utf-8")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))


TOPICS = {
    f"topic {topic:02}": "\n\n".join(f"{topic} {part} " + "word " * 290 for part in range(3)) for topic in range(40)
}


def test_target_documents_are_spread_over_the_manual(tmp_path, monkeypatch):
    fake_library(tmp_path, monkeypatch, TOPICS)
    (tmp_path / "os.py").write_text("x = 1\n")
    few, more = standard_library_corpus(2), standard_library_corpus(5)
    assert (len(few.target), len(more.target)) == (2, 5)
    assert few.test == more.test
    assert len(few.domains["manual"]) == len(more.domains["manual"]) + 3
    topics = [int(text.split()[0]) for text in more.target]
    assert max(topics) - min(topics) > 20


@pytest.mark.parametrize("count", [0, -1, 1000])
def test_target_documents_out_of_range(tmp_path, monkeypatch, count):
    fake_library(tmp_path, monkeypatch, TOPICS)
    with pytest.raises(ValueError, match="`target_documents` must be between 1 and 30"):
        standard_library_corpus(count)


def test_missing_manual_names_the_package(tmp_path, monkeypatch):
    fake_library(tmp_path, monkeypatch, None)
    with pytest.raises(DataError, match=r"lacks its manual, .*topics\.py.*libpython3\.X-stdlib"):
        standard_library_corpus()


def test_missing_sources(tmp_path, monkeypatch):
    fake_library(tmp_path, monkeypatch, TOPICS)
    with pytest.raises(DataError, match="no source files"):
        standard_library_corpus()


def test_paragraph_stays_in_the_longest_topic(tmp_path, monkeypatch):
    fake_library(
        tmp_path,
        monkeypatch,
        {"assert": "shared\n words\n\nonly here", "compound": "first one\n\nshared words\n\nlast"},
    )
    assert manual_topics(tmp_path) == [["first one", "shared words", "last"], ["only here"]]
