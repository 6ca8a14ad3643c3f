import numpy as np
import pytest

from lightning_dga.domains.kmeans import LIBRARIES, fit_centroids, nearest
from tests.helpers.corpora import clouds


def test_nearest_is_the_nearest(monkeypatch):
    monkeypatch.setattr("lightning_dga.domains.kmeans._BLOCK", 64)
    vectors, _ = clouds(200, d=8)
    centroids = vectors[:30] * 0.9
    distances = np.square(vectors[:, None] - centroids).sum(axis=2)
    assert (nearest(vectors, centroids) == distances.argmin(axis=1)).all()


@pytest.mark.parametrize("library", LIBRARIES)
def test_clouds_are_found(library):
    vectors, of = clouds(2000, 12)
    found = nearest(vectors, fit_centroids(vectors, 60, 0, library))
    purity = sum(np.bincount(of[found == cluster]).max() for cluster in np.unique(found)) / len(vectors)
    assert purity > 0.99


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("n, clusters", [(70, 64), (64, 64), (300, 40), (11_000, 100)])
def test_no_centroid_is_empty_and_none_is_missing(library, n, clusters):
    vectors, _ = clouds(n, 9)
    centroids = fit_centroids(vectors, clusters, 0, library)
    assert len(np.unique(nearest(vectors, centroids))) == len(centroids) == clusters


@pytest.mark.parametrize("library", LIBRARIES)
def test_equal_vectors_are_one_cluster(library):
    vectors = np.repeat(clouds(5)[0], 20, axis=0)
    assert len(fit_centroids(vectors, 12, 0, library)) == 5


@pytest.mark.parametrize("library", LIBRARIES)
def test_it_is_the_same_every_time(library):
    vectors, _ = clouds(500)
    first, second = (fit_centroids(vectors, 30, 3, library) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ImportError, match=r"lightning-dga\[faiss\]"):
        fit_centroids(clouds(50)[0], 3, 0, "faiss")
