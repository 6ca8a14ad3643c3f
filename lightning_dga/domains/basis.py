"""Bases of the histograms of reference sets over clusters, and which reference set is nearest to a target."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lightning_dga.core.basis import Basis
from lightning_dga.domains.errors import DomainsError
from lightning_dga.domains.histogram import label_histogram


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
