import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_dga.data.errors import DataError
from lightning_dga.data.text import TextCorpus, clustered_text_mixture, pack, pack_by_label
from lightning_dga.data.text.builders.clustered import read_labels

TEXTS = [f"document {n} of the {'sea' if n % 3 else 'sky'} " * 8 for n in range(30)]
CORPUS = TextCorpus({"a": TEXTS[:12], "b": TEXTS[12:]}, TEXTS[:6], TEXTS[6:9], TEXTS[9:12], name="sky")
SIZES = {"batch_size": 4, "vocab_size": 300, "context_length": 16}


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 4)), min_size=1, max_size=30),
    st.integers(1, 9),
    st.integers(0, 3),
)
def test_every_cluster_has_its_own_tokens_and_no_others(documents, context_length, seed):
    # each token tells the cluster that it is of
    tokens = [np.full(length, 1 + label, dtype=np.uint16) for length, label in documents]
    labels = np.array([label for _, label in documents])
    windows, of = pack_by_label(tokens, labels, context_length, 0, seed=seed)
    assert set(of) == set(labels)
    assert (np.diff(of) >= 0).all()
    assert ((windows == 0) | (windows == 1 + of[:, None])).all()


def test_one_cluster_is_packed_as_ever():
    tokens = [np.arange(1, 1 + n, dtype=np.uint16) for n in (5, 9, 3, 7)]
    order = np.random.default_rng(0).permutation(4)
    windows, of = pack_by_label(tokens, np.zeros(4, dtype=int), 4, 0)
    assert (windows == pack([tokens[index] for index in order], 4, 0)).all()
    assert not of.any()


def test_most_keeps_one_window_at_least():
    tokens = [np.arange(1, 100, dtype=np.uint16)]
    for most, expected in ((None, 24), (8, 2), (4, 1), (1, 1)):
        assert len(pack_by_label(tokens, np.array([7]), 4, 0, most=most)[0]) == expected


def test_short_clusters_are_told_of(caplog):
    with caplog.at_level(logging.WARNING):
        pack_by_label([np.array([1]), np.arange(1, 9)], np.array([0, 1]), 4, 0)
    assert "1 of 2 clusters are shorter than a window of 5 tokens" in caplog.text


def test_clusters_are_the_domains():
    labels = np.arange(30) % 3
    mixture = clustered_text_mixture(CORPUS, labels, **SIZES)
    assert mixture.domain_names == ("0", "1", "2")
    assert mixture.tokens_per_sample == 16
    mixture.set_weights({"0": 1, "1": 0, "2": 0})
    batch = next(iter(mixture.train_dataloader()))
    assert batch.shape == (4, 17)
    assert all("sky" in mixture.tokenizer.decode(window.tolist()) for window in batch)


def test_labels_of_another_corpus_are_refused():
    with pytest.raises(DataError, match="29 labels, and corpus 'sky' has 30 documents"):
        clustered_text_mixture(CORPUS, [0] * 29, **SIZES)


def test_files_of_labels(tmp_path):
    with pytest.raises(FileNotFoundError, match="dga-domains cluster"):
        read_labels(tmp_path / "labels.npy")
    (tmp_path / "labels.npy").write_text("no array")
    with pytest.raises(DataError, match=r"not a \.npy file"):
        read_labels(tmp_path / "labels.npy")
    np.save(tmp_path / "labels.npy", np.zeros((2, 2)))
    with pytest.raises(DataError, match="expected one integer"):
        read_labels(tmp_path / "labels.npy")
