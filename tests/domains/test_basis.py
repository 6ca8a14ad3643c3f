import numpy as np
import pytest

from lightning_dga.domains import Basis, DomainsError, histogram_basis, label_histogram, reference_similarities


def test_columns_are_histograms(tmp_path):
    basis = histogram_basis({"a": np.array([0, 0, 2, 3]), "b": np.array([1])}, 4)
    assert basis.names == ("a", "b")
    assert basis.matrix.tolist() == [[0.5, 0], [0, 1], [0.25, 0], [0.25, 0]]
    basis.save(tmp_path / "basis.npy")
    kept = Basis.load(tmp_path / "basis.npy")
    assert kept.names == basis.names and (kept.matrix == basis.matrix).all()


def test_names_of_another_basis_are_noticed(tmp_path):
    histogram_basis({"a": np.array([0]), "b": np.array([1])}, 2).save(tmp_path / "basis.npy")
    (tmp_path / "basis.names.json").write_text('["a"]')
    with pytest.raises(ValueError, match="names 1 columns"):
        Basis.load(tmp_path / "basis.npy")


def test_an_empty_reference_is_named():
    with pytest.raises(DomainsError, match="'b' has no document"):
        histogram_basis({"a": np.array([0]), "b": np.array([], dtype=int)}, 4)
    with pytest.raises(DomainsError, match="at least one"):
        histogram_basis({}, 4)
    with pytest.raises(ValueError, match="empty"):
        label_histogram(np.array([], dtype=int), 4)


def test_the_nearest_reference_shares_no_cluster_with_the_target():
    # clusters on a line; the target's lies between those of the middle reference
    centroids = np.array([[-3, 1], [-2, 1], [1.0, 1], [2, 1], [3, 1], [9, 1]], dtype=np.float32)
    basis = histogram_basis({"left": np.array([0, 1]), "middle": np.array([2, 4]), "right": np.array([5])}, 6)
    similarities = reference_similarities(label_histogram(np.array([3]), 6), basis, centroids)
    assert set(similarities) == {"left", "middle", "right"}
    assert list(similarities.values()) == sorted(similarities.values(), reverse=True)


def test_a_reference_is_nearest_to_itself():
    generator = np.random.default_rng(0)
    centroids = generator.standard_normal((50, 8)).astype(np.float32)
    references = {name: generator.choice(50, 20, p=generator.dirichlet(np.full(50, 0.1))) for name in "abcdef"}
    basis = histogram_basis(references, 50)
    for name in references:
        column = basis.matrix[:, basis.names.index(name)]
        assert next(iter(reference_similarities(column, basis, centroids))) == name
