"""Clusters vectors into domains by k-means or hierarchical k-means."""

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lightning_dga.domains.errors import DomainsError
from lightning_dga.domains.kmeans import Vectors, fit_centroids
from lightning_dga.domains.leaf_counts import branching, share_leaves
from lightning_dga.domains.resumable_stage import Arrays, kept
from lightning_dga.domains.threads import one_thread
from lightning_dga.domains.tree import ClusterTree, members

# vectors per centroid that faiss's guidelines call sufficient
_VECTORS_PER_CENTROID = 256
_ROWS_AT_ONCE = 1 << 16
_NODES_PER_PART = 16
_FLAT = 1024
_BRANCHING = 64


def default_levels(clusters: int) -> int:
    """Plain k-means up to 1,024 clusters; beyond, as many levels as 64 children for each node need.

    Example:
        >>> [default_levels(k) for k in (512, 4096, 262_144)]
        [1, 2, 3]
    """
    levels = 1
    while clusters > _FLAT and _BRANCHING**levels < clusters:
        levels += 1
    return levels


def hierarchical_kmeans(
    vectors: Vectors,
    clusters: int,
    *,
    levels: int | None = None,
    seed: int = 0,
    library: str = "scikit-learn",
    jobs: int = 1,
    keep: Path | None = None,
    progress: bool = False,
) -> tuple[ClusterTree, NDArray[np.int32]]:
    """Clusters vectors by hierarchical k-means: each cluster of a level is clustered again on the next level.

    The hierarchy is that of CRISP (arXiv 2410.03735). With a fixed 64 x 64 x 64 leaves, many stay empty unless the
    corpus has many times more documents. Here a branch gets leaves in proportion to its number of distinct vectors, so
    that there are exactly ``clusters`` leaves, each with at least one vector, unless there are fewer distinct vectors.

    In addition to ``vectors``, memory holds a few integers per vector, and at most 256 vectors per child of the nodes
    in progress; ``vectors`` may be memory-mapped and is read in order. The result depends, bit for bit, only on
    ``vectors``, ``clusters``, ``levels``, ``seed`` and ``library``, not on ``jobs`` or on interruptions.

    Args:
        vectors: ``[n, d]`` float32.
        clusters: Number of leaves, k.
        levels: Levels of the tree; 1 is plain k-means. By default :func:`default_levels`.
        seed: Seed of the initial centroids and the samples.
        library: ``"scikit-learn"`` or ``"faiss"``.
        jobs: Number of threads that cluster nodes concurrently.
        keep: Folder for finished parts, from which a call with the same arguments resumes.
        progress: Whether to show a progress bar.

    Returns:
        The tree, and the leaf of each vector, ``[n]``; every leaf has at least one.

    Raises:
        DomainsError: If there are fewer vectors than clusters, or ``clusters`` is not positive.
    """
    check_clusters(clusters, len(vectors))
    levels = default_levels(clusters) if levels is None else levels
    tree = ClusterTree([], [])
    nodes = np.zeros(len(vectors), dtype=np.int32)
    leaves = np.array([clusters])
    hashes = _hashes(vectors)
    for level in range(levels):
        grow = partial(_grow, vectors, tree, nodes, leaves, hashes, levels, seed, library, jobs, keep, progress)
        with one_thread():
            done = kept(keep, f"level{level}", grow)
        tree = ClusterTree([*tree.centroids, done["centroids"]], [*tree.first, done["first"]])
        nodes, leaves = done["nodes"], done["leaves"]
    return tree, nodes


def check_clusters(clusters: int, documents: int) -> None:
    """Raises :class:`DomainsError` unless ``clusters`` is between 1 and the number of documents."""
    if not 1 <= clusters <= documents:
        raise DomainsError(f"`clusters` is {clusters}; {documents} documents allow from 1 to {documents} clusters.")


def _grow(
    vectors: Vectors,
    tree: ClusterTree,
    parents: NDArray[np.int32],
    leaves: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    levels: int,
    seed: int,
    library: str,
    jobs: int,
    keep: Path | None,
    progress: bool,
) -> Arrays:
    """The next level of the tree, and the number of leaves for each of its nodes."""
    level = len(tree.centroids)
    children = [branching(count, levels - level) for count in leaves.tolist()]
    title = f"level {level + 1} of {levels}"
    centroids = _fit(vectors, parents, children, level, seed, library, jobs, keep, title if progress else None)
    first = np.cumsum([0, *map(len, centroids)])
    wide = ClusterTree([*tree.centroids, np.concatenate(centroids)], [*tree.first, first])
    nodes = np.empty(len(vectors), dtype=np.int32)
    starts = range(0, len(vectors), _ROWS_AT_ONCE)
    for start in tqdm(starts, desc=f"{title}, assigning", disable=not progress):
        rows = slice(start, start + _ROWS_AT_ONCE)
        nodes[rows] = wide.descend(level, vectors[rows], parents[rows])
    used = np.flatnonzero(np.bincount(nodes, minlength=first[-1]))
    first = np.searchsorted(used, first)
    nodes = np.searchsorted(used, nodes).astype(np.int32)
    different = _count_different(nodes, hashes)
    shares = [share_leaves(count, different[a:b]) for count, a, b in zip(leaves, first[:-1], first[1:], strict=True)]
    return {
        "centroids": wide.leaves[used],
        "first": first,
        "nodes": nodes,
        "leaves": np.concatenate(shares),
    }


def _fit(
    vectors: Vectors,
    parents: NDArray[np.int32],
    children: list[int],
    level: int,
    seed: int,
    library: str,
    jobs: int,
    keep: Path | None,
    title: str | None,
) -> list[Vectors]:
    """Centroids of the children of each node, computed and kept some nodes at a time."""
    from joblib import Parallel, delayed

    groups = [rows for _, rows in members(parents)]
    parts = range(0, len(groups), _NODES_PER_PART)

    def fit(start: int) -> Arrays:
        some = slice(start, start + _NODES_PER_PART)
        make = partial(_fit_nodes, vectors, groups[some], children[some], [seed, level, start], library)
        return kept(keep, f"level{level}-{start}", make)

    # both libraries release the GIL; processes would each import the whole package
    fitted = Parallel(n_jobs=jobs, prefer="threads", return_as="generator")(map(delayed(fit), parts))
    shown = tqdm(fitted, title, len(parts), disable=title is None, unit=f" x {_NODES_PER_PART} nodes")
    return [centroids for part in shown for centroids in np.split(part["centroids"], part["splits"])]


def _fit_nodes(
    vectors: Vectors, groups: list[NDArray[np.int64]], children: list[int], seed: list[int], library: str
) -> Arrays:
    centroids = []
    for index, (rows, count) in enumerate(zip(groups, children, strict=True)):
        generator = np.random.default_rng([*seed, index])
        most = _VECTORS_PER_CENTROID * count
        sample = np.sort(generator.choice(rows, most, replace=False)) if len(rows) > most else rows
        centroids.append(fit_centroids(vectors[sample], count, int(generator.integers(1 << 31)), library))
    return {"centroids": np.concatenate(centroids), "splits": np.cumsum([len(part) for part in centroids])[:-1]}


def _hashes(vectors: Vectors) -> NDArray[np.uint64]:
    """A hash of each vector, ``[n]``, equal for equal vectors."""
    odd = np.random.default_rng(0).integers(1 << 63, size=vectors.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(
        1
    )
    hashes = np.empty(len(vectors), dtype=np.uint64)
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        rows = np.ascontiguousarray(vectors[start : start + _ROWS_AT_ONCE])
        hashes[start : start + _ROWS_AT_ONCE] = rows.view(np.uint32) @ odd
    return hashes


def _count_different(nodes: NDArray[np.int32], hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Number of distinct vectors in each node, ``[nodes]``."""
    order = np.lexsort((hashes, nodes))
    node, value = nodes[order], hashes[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (node[1:] != node[:-1]) | (value[1:] != value[:-1])
    return np.bincount(node[new])
