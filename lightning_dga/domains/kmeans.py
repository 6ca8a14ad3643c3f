"""k-means of vectors in memory, with scikit-learn or faiss."""

import warnings
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from lightning_dga.domains.threads import one_thread

Vectors = NDArray[np.float32]

# number of samples from which scikit-learn's guide recommends mini-batches
_LARGE = 10_000
# maximum number of distances in memory
_BLOCK = 1 << 24
# a new centroid may take the only vector of another one; after some rounds hardly any cluster is empty
_ROUNDS = 10
# squared distance below which unit vectors in float32 count as equal
_SAME = 1e-10


def fit_centroids(vectors: Vectors, clusters: int, seed: int, library: str) -> Vectors:
    """Computes the centroids of k-means, deterministically.

    Args:
        vectors: ``[n, d]``, at least ``clusters`` of them.
        clusters: Number of centroids.
        seed: Seed of the initial centroids, below 2**31.
        library: A key of :data:`LIBRARIES`.

    Returns:
        The centroids ``[clusters, d]``, each the nearest of some vector; fewer if there are fewer distinct vectors.
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
    """``"faiss"`` if it is installed, else ``"scikit-learn"``."""
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
        # about fewer distinct vectors than clusters, which the caller reports
        warnings.simplefilter("ignore", ConvergenceWarning)
        return kmeans.fit(vectors).cluster_centers_.astype(np.float32, copy=False)


def _faiss(vectors: Vectors, clusters: int, seed: int) -> Vectors:
    try:
        import faiss
    except ImportError as error:
        raise ImportError("`faiss` is not installed: pip install 'lightning-dga[faiss]'") from error
    # faiss must neither subsample the vectors nor warn about few of them, because the caller chooses their number
    kmeans = faiss.Kmeans(
        vectors.shape[1], clusters, seed=seed, min_points_per_centroid=1, max_points_per_centroid=len(vectors)
    )
    with one_thread():
        kmeans.train(vectors)
    return np.array(kmeans.centroids, dtype=np.float32)


LIBRARIES: dict[str, Callable[[Vectors, int, int], Vectors]] = {"scikit-learn": _scikit_learn, "faiss": _faiss}
