"""Basis distributions: mixtures of clusters that stand for reference sets, and the one nearest to a target."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightning_dga.atomic import atomic_write, write_json
from lightning_dga.domains.errors import DomainsError
from lightning_dga.domains.histogram import label_histogram


@dataclass(frozen=True)
class Basis:
    """N distributions over k domains: the columns of P in distribution reweighting, where domain weights are P w.

    Reweighting w, of which there are N, costs N + 1 gradients, however many domains there are (arXiv 2410.02498).

    Attributes:
        names: The N reference sets.
        matrix: ``[k, N]`` float64, each column summing to one.
    """

    names: tuple[str, ...]
    matrix: NDArray[np.float64]

    def save(self, file: Path) -> None:
        """Writes the matrix to a ``.npy`` file, and the names to ``<stem>.names.json`` beside it."""
        with atomic_write(file) as stream:
            np.save(stream, self.matrix)
        write_json(_names(file), list(self.names))

    @classmethod
    def load(cls, file: Path) -> "Basis":
        """Reads what :meth:`save` wrote.

        Raises:
            DomainsError: If it is not there.
        """
        if not (file.is_file() and _names(file).is_file()):
            raise DomainsError(f"There is no basis {file} with {_names(file).name}; `dga-domains basis` makes one.")
        names = json.loads(_names(file).read_text(encoding="utf-8"))
        return cls(tuple(names), np.load(file))


def histogram_basis(references: Mapping[str, NDArray[np.integer]], clusters: int) -> Basis:
    """The basis whose columns are the histograms of reference sets over the clusters (CRISP, arXiv 2410.03735).

    Args:
        references: The cluster of each document of each reference set (:meth:`Clusters.place`).
        clusters: Number of clusters, k.

    Raises:
        DomainsError: If there is no reference set, or one is empty.
    """
    if not references:
        raise DomainsError("A basis needs at least one reference set.")
    for name, labels in references.items():
        if not len(labels):
            raise DomainsError(f"The reference set {name!r} has no document; remove it or give it some.")
    columns = [label_histogram(labels, clusters) for labels in references.values()]
    return Basis(tuple(references), np.stack(columns, axis=1))


def reference_similarities(
    histogram: NDArray[np.float64], basis: Basis, centroids: NDArray[np.float32]
) -> dict[str, float]:
    """How near each reference set is to a target: the cosine between the means of their documents.

    The mean of a set is that of the centroids of the clusters that its documents fall into, so that two sets are near
    also where they share no cluster, as a handful of documents and a fine clustering have it. Means are taken from the
    mean over all columns and the target, since all documents have much in common.

    Args:
        histogram: Of the target, ``[k]``.
        basis: The reference sets.
        centroids: Of the clusters, ``[k, d]``.

    Returns:
        The cosine of each reference set, the nearest first. Drawing from the first one's column is the baseline that
        distribution reweighting has to beat.
    """
    means = np.concatenate([basis.matrix, histogram[:, None]], axis=1).T @ centroids
    means -= means.mean(axis=0)
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    cosines = means[:-1] @ means[-1]
    return {basis.names[index]: float(cosines[index]) for index in np.argsort(-cosines, kind="stable")}


def _names(file: Path) -> Path:
    return file.with_suffix(".names.json")
