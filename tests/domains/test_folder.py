"""A folder of domains: its contents, and what it refuses."""

import numpy as np
import pytest

from lightning_dga.domains import DomainsError, TfidfEmbedding, cluster_corpus, embed_corpus, load_clusters
from tests.helpers.corpora import sources


@pytest.fixture
def folder(tmp_path):
    embed_corpus(sources()[0], TfidfEmbedding(8), tmp_path, settings={"of": "sources"})
    cluster_corpus(tmp_path, 8)
    return tmp_path


def test_vectors_are_those_of_the_embedding(folder):
    texts = sum(sources()[0].values(), [])
    expected = TfidfEmbedding(8).fit(texts)(texts)
    np.testing.assert_allclose(np.load(folder / "embeddings.npy"), expected, atol=1e-6)


def test_clusters_are_the_topics(folder):
    clusters = load_clusters(folder)
    _, topics = sources()
    assert len({*zip(topics.tolist(), clusters.labels.tolist(), strict=True)}) == len(clusters) == 8
    others, of = sources(seed=1)
    placed = clusters.place(sum(others.values(), []))
    assert len({*zip(of.tolist(), placed.tolist(), strict=True)}) == 8


def test_labels_by_source(folder):
    clusters = load_clusters(folder)
    by_source = clusters.source_labels()
    assert list(by_source) == ["first", "second"]
    assert (by_source["second"] == clusters.labels[120:]).all()
    assert list(clusters.place([])) == []


def test_a_sample_is_enough_to_fit_on(tmp_path):
    embed_corpus(sources()[0], TfidfEmbedding(8), tmp_path, settings={}, fit_documents=100)
    cluster_corpus(tmp_path, 8)
    assert len({*zip(sources()[1].tolist(), load_clusters(tmp_path).labels.tolist(), strict=True)}) == 8


def test_other_settings_are_refused_and_overwritten_when_told(folder):
    with pytest.raises(DomainsError, match="'cluster' was made with clusters = 8, not 9"):
        cluster_corpus(folder, 9)
    assert len(load_clusters(folder)) == 8
    cluster_corpus(folder, 7, overwrite=True)
    assert len(load_clusters(folder)) == 7
    with pytest.raises(DomainsError, match="of = 'sources', not 'others'"):
        embed_corpus(sources()[0], TfidfEmbedding(8), folder, settings={"of": "others"})


def test_clusters_of_an_older_embedding_are_refused(folder):
    embed_corpus(sources()[0], TfidfEmbedding(6), folder, settings={"of": "others"}, overwrite=True)
    with pytest.raises(DomainsError, match="embedded again"):
        load_clusters(folder)


def test_stages_come_in_order(tmp_path):
    with pytest.raises(DomainsError, match="dga-domains embed"):
        cluster_corpus(tmp_path, 8)
    embed_corpus(sources()[0], TfidfEmbedding(8), tmp_path, settings={})
    with pytest.raises(DomainsError, match="'cluster' is not done"):
        load_clusters(tmp_path)


def test_an_empty_corpus_is_refused(tmp_path):
    with pytest.raises(DomainsError, match="no document"):
        embed_corpus({"none": []}, TfidfEmbedding(8), tmp_path, settings={})


def test_a_corpus_that_shrinks_on_the_way_is_noticed(tmp_path):
    class Shrinking:
        texts = sources()[0]["first"]

        def __iter__(self):
            texts, self.texts = self.texts, self.texts[:-1]
            return iter(texts)

    with pytest.raises(DomainsError, match="120 documents when counted, and 119"):
        embed_corpus({"one": Shrinking()}, TfidfEmbedding(8), tmp_path, settings={})
