"""A tree of clusters, whose leaves are the domains."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightning_dga.atomic import write_arrays
from lightning_dga.domains.kept import read_arrays
from lightning_dga.domains.kmeans import Vectors, nearest


class ClusterTree:
    """A hierarchy of clusters. The children of a node are numbered consecutively, so siblings have adjacent numbers.

    Args:
        centroids: Centroids of the nodes of each level, from the top, ``[nodes, d]``.
        first: For each level, the index of the first child of each node of the level above (for the top level, of the
            root), followed by the number of nodes: ``[nodes above + 1]``.
    """

    def __init__(self, centroids: list[Vectors], first: list[NDArray[np.int64]]) -> None:
        self.centroids = centroids
        self.first = first

    def __len__(self) -> int:
        """Number of leaves."""
        return len(self.centroids[-1])

    @property
    def leaves(self) -> Vectors:
        """Centroids of the leaves, ``[k, d]``."""
        return self.centroids[-1]

    def assign(self, vectors: Vectors) -> NDArray[np.int64]:
        """The leaf of each vector, ``[n]``, found from the top down by the nearest child on each level."""
        nodes = np.zeros(len(vectors), dtype=np.int64)
        for level in range(len(self.centroids)):
            nodes = self.descend(level, vectors, nodes)
        return nodes

    def descend(self, level: int, vectors: Vectors, nodes: NDArray[np.integer]) -> NDArray[np.int64]:
        """The node of each vector on a level, ``[n]``, given its node on the level above."""
        children = np.empty(len(nodes), dtype=np.int64)
        first = self.first[level]
        for node, rows in members(nodes):
            start, stop = first[node], first[node + 1]
            children[rows] = start + nearest(vectors[rows], self.centroids[level][start:stop])
        return children

    def save(self, file: Path) -> None:
        """Writes the tree to a file."""
        arrays: dict[str, NDArray] = {f"centroids{level}": array for level, array in enumerate(self.centroids)}
        arrays |= {f"first{level}": array for level, array in enumerate(self.first)}
        write_arrays(file, **arrays)

    @classmethod
    def load(cls, file: Path) -> "ClusterTree":
        """Reads a tree from a file of :meth:`save`."""
        arrays = read_arrays(file)
        levels = range(len(arrays) // 2)
        return cls([arrays[f"centroids{i}"] for i in levels], [arrays[f"first{i}"] for i in levels])


def members(labels: NDArray[np.integer]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each label that occurs, in increasing order, with the increasing indices at which it occurs."""
    order = np.argsort(labels, kind="stable")
    found, starts = np.unique(labels[order], return_index=True)
    for label, start, stop in zip(found.tolist(), starts, [*starts[1:], len(order)], strict=True):
        yield label, order[start:stop]
