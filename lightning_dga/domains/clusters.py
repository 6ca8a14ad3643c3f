"""Clusters the vectors of a folder of domains, its second stage, and loads the finished folder."""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightning_dga.atomic import atomic_write
from lightning_dga.domains.cluster import check_clusters, default_levels, hierarchical_kmeans
from lightning_dga.domains.embed import EMBED, EMBEDDING, VECTORS
from lightning_dga.domains.embedding import Embedding, load_embedding
from lightning_dga.domains.errors import DomainsError
from lightning_dga.domains.kept import read_array
from lightning_dga.domains.resumable_stage import ResumableStage, read_summary
from lightning_dga.domains.tree import ClusterTree

CLUSTER = "cluster"
LABELS = "labels.npy"
TREE = "tree.npz"

_DOCUMENTS_AT_ONCE = 1024


def cluster_corpus(
    folder: Path,
    clusters: int,
    *,
    levels: int | None = None,
    seed: int = 0,
    library: str = "scikit-learn",
    jobs: int = 1,
    overwrite: bool = False,
    progress: bool = False,
) -> None:
    """Clusters the vectors of a folder of domains, and writes ``labels.npy``, ``[n]`` int32, and ``tree.npz``.

    After an interruption, the next call resumes, and the result is bit-identical.

    Args:
        folder: Folder with the vectors of :func:`~lightning_dga.domains.embed_corpus`.
        clusters: Number of clusters, k. This and the following arguments are those of
            :func:`~lightning_dga.domains.hierarchical_kmeans`.
        levels: Levels of the tree.
        seed: Seed of the clustering.
        library: ``"scikit-learn"`` or ``"faiss"``.
        jobs: Number of threads.
        overwrite: Whether to replace clusters that the folder holds.
        progress: Whether to show a progress bar.

    Raises:
        DomainsError: If there are no vectors, fewer than ``clusters``, or clusters made with other settings.
    """
    embedded = read_summary(folder, EMBED)
    settings = {
        "clusters": clusters,
        "levels": default_levels(clusters) if levels is None else levels,
        "seed": seed,
        "library": library,
        "embedded": _embedded(folder),
    }
    stage = ResumableStage(folder, CLUSTER, settings)
    if overwrite:
        stage.discard()
    if stage.is_whole():
        return
    vectors = read_array(folder / VECTORS, "r")
    check_clusters(clusters, len(vectors))
    stage.begin()
    tree, labels = hierarchical_kmeans(
        vectors,
        clusters,
        levels=levels,
        seed=seed,
        library=library,
        jobs=jobs,
        keep=stage.partial,
        progress=progress,
    )
    tree.save(folder / TREE)
    with atomic_write(folder / LABELS) as stream:
        np.save(stream, labels)
    sizes = np.bincount(labels)
    stage.finish(
        {
            "clusters": len(tree),
            "nodes": [len(centroids) for centroids in tree.centroids],
            "documents": len(labels),
            "singletons": int((sizes == 1).sum()),
            "median": float(np.median(sizes)),
            "largest": int(sizes.max()),
            # by these digests, training on the labels detects that documents have changed
            "sha256": embedded.get("sha256"),
        }
    )


@dataclass(frozen=True)
class Clusters:
    """The clusters of a corpus.

    Attributes:
        labels: Cluster of each document, ``[n]`` int32, in the order of the corpus: what
            :meth:`MixtureDataModule.from_labels` takes.
        tree: The tree of clusters.
        embedding: The embedding of the corpus.
        sources: Number of documents of each source, in the order of ``labels``.
    """

    labels: NDArray[np.int32]
    tree: ClusterTree
    embedding: Embedding
    sources: dict[str, int]

    def __len__(self) -> int:
        """Number of clusters, k."""
        return len(self.tree)

    def place(self, documents: Iterable[str]) -> NDArray[np.int64]:
        """The cluster of each of some other documents, such as a target set, ``[m]``."""
        remaining = iter(documents)
        placed = [np.empty(0, dtype=np.int64)]
        while batch := list(islice(remaining, _DOCUMENTS_AT_ONCE)):
            placed.append(self.tree.assign(self.embedding(batch)))
        return np.concatenate(placed)

    def source_labels(self) -> dict[str, NDArray[np.int32]]:
        """The labels of the documents of each source."""
        ends = np.cumsum(list(self.sources.values()))
        return dict(zip(self.sources, np.split(self.labels, ends[:-1]), strict=True))


def load_clusters(folder: Path) -> Clusters:
    """Loads the clusters of a complete folder.

    Raises:
        DomainsError: If the folder is incomplete; the message says which command completes it.
    """
    embedded, clustered = read_summary(folder, EMBED), read_summary(folder, CLUSTER)
    if clustered["settings"]["embedded"] != _embedded(folder):
        raise DomainsError(
            f"{folder}: its corpus was embedded again after it was clustered; run dga-domains cluster --overwrite."
        )
    return Clusters(
        read_array(folder / LABELS),
        ClusterTree.load(folder / TREE),
        load_embedding(folder / EMBEDDING),
        embedded["documents"],
    )


def is_clustered(folder: Path) -> bool:
    """Whether a folder contains a stage of clustering, finished or not."""
    return any((folder / f"{stage}{end}").exists() for stage in (EMBED, CLUSTER) for end in (".json", ".partial"))


def _embedded(folder: Path) -> int:
    """A checksum that distinguishes embeddings of a corpus."""
    return zlib.crc32((folder / f"{EMBED}.json").read_bytes())
