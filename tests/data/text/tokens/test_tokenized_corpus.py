import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lightning_dga.data.errors import DataError
from lightning_dga.data.text import TextCorpus, tokenize_corpus
from lightning_dga.data.text.tokens import tokenized_corpus

CORPUS = TextCorpus(
    domains={"code/x": ["def f(): pass", "", "x = f()"] * 4, "prose": ["the cat sat on the mat"] * 3},
    target=["the target: 漢字"],
    val=["val"],
    test=[],
    name="small",
)


def texts(tokenized, documents):
    return [tokenized.tokenizer.decode(ids.tolist()) for ids in documents]


def assert_is_corpus(tokenized, corpus=CORPUS):
    assert list(tokenized.domains) == list(corpus.domains)
    for name, documents in corpus.domains.items():
        assert texts(tokenized, tokenized.domains[name]) == documents
        assert len(tokenized.domains[name]) == len(documents)
    for part in ("target", "val", "test"):
        assert texts(tokenized, getattr(tokenized, part)) == getattr(corpus, part)


def test_documents_decode_to_themselves():
    tokenized = tokenize_corpus(CORPUS, 280)
    assert_is_corpus(tokenized)
    assert tokenized.domains["prose"].tokens.dtype == np.uint16
    with pytest.raises(IndexError):
        tokenized.domains["prose"][3]


def test_more_documents_than_are_encoded_at_once(monkeypatch):
    monkeypatch.setattr(tokenized_corpus, "_DOCUMENTS_AT_ONCE", 5)
    assert_is_corpus(tokenize_corpus(CORPUS, 280))


def test_tokenizer_never_sees_the_target():
    held_out = TextCorpus(CORPUS.domains, ["zzqq " * 50], ["qqzz " * 50], ["zqzq " * 50], "other")
    assert tokenize_corpus(held_out, 280).tokenizer.to_str() == tokenize_corpus(CORPUS, 280).tokenizer.to_str()


def test_domain_without_documents_is_named():
    with pytest.raises(DataError, match="Domain 'empty' of corpus 'c'"):
        tokenize_corpus(TextCorpus({"full": ["a"], "empty": []}, ["t"], [], [], "c"), 280)


@pytest.fixture
def trainings(monkeypatch):
    calls = []
    train = tokenized_corpus.train_tokenizer
    monkeypatch.setattr(tokenized_corpus, "train_tokenizer", lambda *args: calls.append(args) or train(*args))
    return calls


def test_cache_is_used(tmp_path, trainings):
    cache = tmp_path / "new" / "cache"
    first, second = tokenize_corpus(CORPUS, 280, cache), tokenize_corpus(CORPUS, 280, str(cache))
    assert len(trainings) == 1
    assert_is_corpus(second)
    assert second.tokenizer.to_str() == first.tokenizer.to_str()
    assert second.domains["prose"].tokens.dtype == np.uint16
    assert [file.suffix for file in cache.iterdir()] == [".npz"]


@pytest.mark.parametrize(
    "change",
    [
        {
            "domains": {
                **CORPUS.domains,
                "prose": ["the cat sat on the mat", "the cat sat on the matthe cat sat on the mat"],
            }
        },
        {"domains": {"code/x": CORPUS.domains["code/x"], "prosa": CORPUS.domains["prose"]}},
        {
            "domains": {
                **CORPUS.domains,
                "prose": ["the cat sat on the matt", "he cat sat on the mat", CORPUS.domains["prose"][0]],
            }
        },
        {"target": ["the target: ", "漢字"]},
        {"val": [], "test": ["val"]},
    ],
    ids=["fewer documents", "other cuts", "domain name", "target", "val and test"],
)
def test_other_documents_have_another_entry(tmp_path, trainings, change):
    other = TextCorpus(**{**vars(CORPUS), **change})
    for corpus in (CORPUS, other):
        assert_is_corpus(tokenize_corpus(corpus, 280, tmp_path), corpus)
    assert len(trainings) == 2
    assert len(list(tmp_path.iterdir())) == 2


def test_other_vocabulary_has_another_entry(tmp_path, trainings):
    sizes = [tokenize_corpus(CORPUS, size, tmp_path).tokenizer.get_vocab_size() for size in (265, 270)]
    assert sizes == [265, 270]


def damage_truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def damage_empty(file):
    file.write_bytes(b"")


def damage_other_format(file):
    file.write_bytes(b"not an archive")


def damage_one_byte(file):
    content = bytearray(file.read_bytes())
    content[content.index(b"prose" if b"prose" in content else b"0.tokens.npy") + 200] ^= 1
    file.write_bytes(content)


def damage_other_file(file):
    np.savez(file, something=np.zeros(3))


def damage_tokenizer(file):
    with np.load(file) as archive:
        np.savez(file, **{**archive, "tokenizer": np.frombuffer(b"{}", np.uint8)})


@pytest.mark.parametrize(
    "damage", [damage_truncate, damage_empty, damage_other_format, damage_one_byte, damage_other_file, damage_tokenizer]
)
def test_damaged_entry_is_made_again(tmp_path, trainings, caplog, damage):
    tokenize_corpus(CORPUS, 280, tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    damage(file)
    assert file.read_bytes() != whole
    with caplog.at_level(logging.WARNING):
        assert_is_corpus(tokenize_corpus(CORPUS, 280, tmp_path))
    assert str(file) in caplog.text and "again" in caplog.text
    assert len(trainings) == 2
    tokenize_corpus(CORPUS, 280, tmp_path)
    assert len(trainings) == 2
    assert [*tmp_path.iterdir()] == [file]


def test_writers_may_race(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        for tokenized in pool.map(lambda _: tokenize_corpus(CORPUS, 280, tmp_path), range(16)):
            assert_is_corpus(tokenized)
    assert [file.suffix for file in tmp_path.iterdir()] == [".npz"]


def test_interrupted_writer_leaves_nothing(tmp_path, monkeypatch):
    def fail(stream, **arrays):
        stream.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(KeyboardInterrupt):
        tokenize_corpus(CORPUS, 280, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_stages_are_logged(caplog):
    with caplog.at_level(logging.INFO, logger="lightning_dga"):
        tokenize_corpus(CORPUS, 280)
    assert "training a tokenizer on 15 documents" in caplog.text
    assert "encoding" in caplog.text
