import numpy as np
import pytest

from lightning_dga.domains import DomainsError, hierarchical_kmeans
from lightning_dga.domains.kmeans import LIBRARIES
from tests.helpers.corpora import clouds


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("clusters, levels", [(1, 1), (40, 1), (200, 2), (1500, 3), (3000, 3)])
def test_there_are_as_many_as_asked_for_and_none_is_empty(library, clusters, levels):
    vectors, _ = clouds()
    tree, labels = hierarchical_kmeans(vectors, clusters, levels=levels, library=library)
    assert len(tree) == clusters == len(np.unique(labels))
    assert labels.max() == clusters - 1
    assert len(tree.centroids) == levels


def test_vectors_are_assigned_as_they_were_clustered(tmp_path):
    vectors, _ = clouds()
    tree, labels = hierarchical_kmeans(vectors, 300, levels=2)
    assert (tree.assign(vectors) == labels).all()
    tree.save(tmp_path / "tree.npz")
    assert (type(tree).load(tmp_path / "tree.npz").assign(vectors) == labels).all()


def test_neighbours_share_a_cluster():
    vectors, of = clouds()
    _, labels = hierarchical_kmeans(vectors, 400, levels=2)
    purity = sum(np.bincount(of[labels == cluster]).max() for cluster in range(400)) / len(vectors)
    assert purity > 0.95


def test_siblings_are_neighbours_in_number():
    vectors, _ = clouds()
    tree, labels = hierarchical_kmeans(vectors, 200, levels=2)
    above = tree.descend(0, vectors, np.zeros(len(vectors), dtype=int))
    assert (np.searchsorted(tree.first[1], labels, side="right") - 1 == above).all()


def test_fewer_different_vectors_than_clusters():
    vectors = np.concatenate([clouds(100)[0], np.repeat(clouds(1)[0], 500, axis=0)])
    different = len(np.unique(vectors, axis=0))
    tree, labels = hierarchical_kmeans(vectors, 400, levels=2)
    assert len(tree) == len(np.unique(labels)) == different
    tree, _ = hierarchical_kmeans(vectors, different - 5, levels=2)
    assert len(tree) == different - 5


@pytest.mark.parametrize("library", LIBRARIES)
def test_jobs_and_chunks_do_not_matter(library, monkeypatch):
    vectors, _ = clouds()
    tree, labels = hierarchical_kmeans(vectors, 1500, levels=2, library=library)
    monkeypatch.setattr("lightning_dga.domains.cluster._ROWS_AT_ONCE", 700)
    again, same = hierarchical_kmeans(vectors, 1500, levels=2, library=library, jobs=2)
    assert tree.leaves.tobytes() == again.leaves.tobytes()
    assert (labels == same).all()


def test_a_large_node_is_clustered_from_a_sample(monkeypatch):
    monkeypatch.setattr("lightning_dga.domains.cluster._VECTORS_PER_CENTROID", 5)
    sizes = []
    fit = hierarchical_kmeans.__globals__["fit_centroids"]
    monkeypatch.setattr("lightning_dga.domains.cluster.fit_centroids", lambda v, *a: sizes.append(len(v)) or fit(v, *a))
    tree, labels = hierarchical_kmeans(clouds()[0], 49, levels=2)
    assert sizes[0] == 5 * 7 and max(sizes) <= 5 * 30
    assert len(np.unique(labels)) == len(tree) == 49


@pytest.mark.parametrize("clusters", [0, 101])
def test_more_clusters_than_documents_are_refused(clusters):
    with pytest.raises(DomainsError, match=f"`clusters` is {clusters}; 100 documents"):
        hierarchical_kmeans(clouds(100)[0], clusters)
