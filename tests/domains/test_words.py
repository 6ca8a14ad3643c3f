"""Words of every script, and documents without a known word."""

import random
import re

import numpy as np
import pytest

from lightning_dga.domains import DomainsError, TfidfEmbedding, nearest_domain_histogram
from lightning_dga.domains.words import words

# the letters that texts of three domains are of; every document is of other words than all others
SCRIPTS = {
    "chinese": [range(0x4E00 + 60 * i, 0x4E3C + 60 * i) for i in range(3)],
    "rare chinese": [range(0x20000 + 60 * i, 0x2003C + 60 * i) for i in range(3)],
    "japanese": [range(0x3041, 0x3080), range(0x30A1, 0x30F0), range(0x6F22, 0x6F60)],
    "thai": [range(0x0E01 + 12 * i, 0x0E0C + 12 * i) for i in range(3)],
    "khmer": [range(0x1780 + 11 * i, 0x178B + 11 * i) for i in range(3)],
}


def corpus(script, documents, seed):
    generator = random.Random(seed)
    letters = SCRIPTS[script]
    return {
        name: ["，".join("".join(map(chr, generator.choices(points, k=9))) for _ in range(6)) for _ in range(documents)]
        for name, points in zip(("law", "med", "news"), letters, strict=True)
    }


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("name", ["law", "med", "news"])
def test_documents_without_spaces_are_nearest_to_their_own_kind(script, name):
    domains = corpus(script, 30, seed=0)
    embedding = TfidfEmbedding().fit(text for texts in domains.values() for text in texts)
    shares = nearest_domain_histogram(domains, corpus(script, 10, seed=1)[name], embedding)
    assert shares[name] == pytest.approx(1)


def test_sequences_longer_than_words_are_compared_by_their_pieces():
    generator = random.Random(0)

    def texts(letters):
        return ["".join(generator.choices(letters, k=200)) for _ in range(20)]

    domains = {"genome": texts("acgt"), "protein": texts("dehiklmnpqrsvwy")}
    embedding = TfidfEmbedding().fit([*domains["genome"], *domains["protein"]])
    assert nearest_domain_histogram(domains, texts("dehiklmnpqrsvwy"), embedding)["protein"] == pytest.approx(1)


def test_words_with_spaces_are_those_of_scikit_learn():
    for text in (
        "The cat sat, didn't it? 3 of 42 x_1",
        "Größe ÉTÉ naïve",
        "привет мир",
        "안녕 세상",
        "",
        "a b c",
        "नमस्ते दुनिया",
    ):
        assert words(text) == re.findall(r"(?u)\b\w\w+\b", text.lower())


def test_scripts_may_be_mixed():
    assert words("GPT-4は強い") == ["gpt", "は", "強", "い", "は強", "強い"]


class Known:
    """An embedding by given vectors."""

    def __init__(self, **vectors):
        self.vectors = {name: np.array(vector, dtype=np.float32) for name, vector in vectors.items()}

    def __call__(self, documents):
        return np.stack([self.vectors[document] for document in documents])


def test_where_nothing_is_known_no_domain_is_preferred(caplog):
    domains = {"first": ["one two"], "second": ["three four"], "third": ["five six"]}
    embedding = TfidfEmbedding().fit(text for texts in domains.values() for text in texts)
    shares = nearest_domain_histogram(domains, ["unheard of", "!?"], embedding)
    assert shares == pytest.approx(dict.fromkeys(domains, 1 / 3))
    assert "2 of 2 documents have nothing in common" in caplog.text
    half = nearest_domain_histogram(domains, ["unheard of", "three"], embedding)
    assert half == pytest.approx({"first": 1 / 6, "second": 4 / 6, "third": 1 / 6})


def test_domains_that_are_equally_near_share():
    embedding = Known(a=[1, 0], b=[0, 1], zero=[0, 0])
    shares = nearest_domain_histogram({"one": ["a"], "other": ["b"], "same": ["a"]}, ["a", "b"], embedding)
    assert shares == {"one": 0.25, "other": 0.5, "same": 0.25}


def test_a_domain_of_which_nothing_is_known_is_near_to_nothing():
    embedding = Known(away=[-1, 0], here=[1, 0], zero=[0, 0])
    domains = {"empty": ["zero"], "opposite": ["away"]}
    assert nearest_domain_histogram(domains, ["here"], embedding) == {"empty": 0, "opposite": 1}
    assert nearest_domain_histogram({"a": ["zero"], "b": ["zero"]}, ["here"], embedding) == {"a": 0.5, "b": 0.5}


@pytest.mark.parametrize("documents", [["+ - *", "! ?"], ["", ""], ["a", "b"], []])
def test_no_word_at_all_is_an_error(documents):
    with pytest.raises(DomainsError, match="No document has a word"):
        TfidfEmbedding().fit(documents)
