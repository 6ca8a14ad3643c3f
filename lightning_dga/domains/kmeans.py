"""k-means of vectors in memory, by scikit-learn or faiss."""

import warnings
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from lightning_dga.domains.threads import one_thread

Vectors = NDArray[np.float32]

# number of samples from which scikit-learn's guide recommends mini-batches
_LARGE = 10_000
# products of this many numbers at once
_BLOCK = 1 << 24
# a new centroid may take the only vector of another one; after some rounds hardly any are left
_ROUNDS = 10
# squared distance, of about unit vectors, at which float32 tells them no longer apart
_SAME = 1e-10


def fit_centroids(vectors: Vectors, clusters: int, seed: int, library: str) -> Vectors:
    """Centroids of a k-means clustering; the same on every call with the same arguments.

    Args:
        vectors: ``[n, d]``, at least ``clusters`` of them.
        clusters: How many centroids.
        seed: Of the first guess, below 2**31.
        library: A key of :data:`LIBRARIES`.

    Returns:
        ``[clusters, d]``, fewer only where there are fewer different vectors; each is the nearest of some vector.
    """
    if clusters == 1:
        return vectors.mean(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)
    vectors = np.ascontiguousarray(vectors)
    return _replace_empty(vectors, LIBRARIES[library](vectors, clusters, seed), clusters)


def _replace_empty(vectors: Vectors, centroids: Vectors, clusters: int) -> Vectors:
    """Moves centroids of empty clusters to the vectors that are farthest from their centroids."""
    for _ in range(_ROUNDS):
        used, found = np.unique(nearest(vectors, centroids), return_inverse=True)
        centroids = centroids[used]
        missing = clusters - len(centroids)
        if not missing:
            return centroids
        distances = np.square(vectors - centroids[found]).sum(axis=1)
        worst = np.argsort(-distances, kind="stable")[: 10 * missing]
        worst = worst[distances[worst] > _SAME]
        if not len(worst):
            break
        _, first = np.unique(vectors[worst], axis=0, return_index=True)
        centroids = np.concatenate([centroids, vectors[worst[np.sort(first)[:missing]]]])
    return centroids[np.unique(nearest(vectors, centroids))]


def nearest(vectors: Vectors, centroids: Vectors) -> NDArray[np.int64]:
    """Index of the nearest centroid of each vector, ``[n]``, in Euclidean distance."""
    half_squares = np.square(centroids).sum(axis=1) / 2
    found = np.empty(len(vectors), dtype=np.int64)
    step = max(1, _BLOCK // len(centroids))
    for start in range(0, len(vectors), step):
        found[start : start + step] = (vectors[start : start + step] @ centroids.T - half_squares).argmax(axis=1)
    return found


def best_library() -> str:
    """``"faiss"`` where it is installed, else ``"scikit-learn"``."""
    return "faiss" if find_spec("faiss") else "scikit-learn"


def _scikit_learn(vectors: Vectors, clusters: int, seed: int) -> Vectors:
    try:
        from sklearn.cluster import KMeans, MiniBatchKMeans
        from sklearn.exceptions import ConvergenceWarning
    except ImportError as error:
        raise ImportError("Clustering needs scikit-learn: pip install 'lightning-dga[cluster]'") from error
    if len(vectors) > _LARGE:
        kmeans = MiniBatchKMeans(clusters, n_init=1, random_state=seed, batch_size=max(1024, 4 * clusters))
    else:
        kmeans = KMeans(clusters, n_init=1, random_state=seed)
    with warnings.catch_warnings(), one_thread():
        # of fewer different vectors than clusters, which whoever asked for them is told in other words
        warnings.simplefilter("ignore", ConvergenceWarning)
        return kmeans.fit(vectors).cluster_centers_.astype(np.float32, copy=False)


def _faiss(vectors: Vectors, clusters: int, seed: int) -> Vectors:
    try:
        import faiss
    except ImportError as error:
        raise ImportError("Clustering with faiss needs it: pip install 'lightning-dga[faiss]'") from error
    # it must neither leave vectors out nor warn of few: how many there are per centroid is for the caller to choose
    kmeans = faiss.Kmeans(
        vectors.shape[1], clusters, seed=seed, min_points_per_centroid=1, max_points_per_centroid=len(vectors)
    )
    with one_thread():
        kmeans.train(vectors)
    return np.array(kmeans.centroids, dtype=np.float32)


LIBRARIES: dict[str, Callable[[Vectors, int, int], Vectors]] = {"scikit-learn": _scikit_learn, "faiss": _faiss}
