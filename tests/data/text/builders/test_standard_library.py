import re

import pytest

from lightning_dga.data.text import standard_library_corpus
from lightning_dga.data.text.builders.standard_library import MANUAL_CHARACTERS

DOMAIN_CHARACTERS = 300_000


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


def test_target_documents_are_spread_over_the_manual(corpus):
    few, more = standard_library_corpus(2), standard_library_corpus(5)
    assert (len(few.target), len(more.target)) == (2, 5)
    assert few.test == more.test == corpus.test
    assert few.domains["code"] == more.domains["code"]
    assert not {*few.target} & {*few.domains["manual"]}


@pytest.mark.parametrize("count", [0, -1, 1000])
def test_target_documents_out_of_range(count):
    with pytest.raises(ValueError, match="`target_documents` must be between 1 and"):
        standard_library_corpus(count)
