"""Basis distributions from histograms of reference sets over clusters, and their similarity to a target."""

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
        raise DomainsError("`references` is empty; a basis needs at least one reference set.")
    for name, labels in references.items():
        if not len(labels):
            raise DomainsError(f"The reference set {name!r} has no document; remove it, or add documents.")
    columns = [label_histogram(labels, clusters) for labels in references.values()]
    return Basis(tuple(references), np.stack(columns, axis=1))


def reference_similarities(
    histogram: NDArray[np.float64], basis: Basis, centroids: NDArray[np.float32]
) -> dict[str, float]:
    """Cosine similarity between the mean of a target and that of each reference set.

    The mean of a set is taken over the centroids of the clusters of its documents. So two sets can be similar although
    they share no cluster, which happens with few documents and many clusters. All means are centred on the mean over
    the reference sets and the target, because all documents have much in common.

    Args:
        histogram: Histogram of the target, ``[k]``.
        basis: The histograms of the reference sets.
        centroids: Centroids of the clusters, ``[k, d]``.

    Returns:
        The cosine of each reference set, in descending order. Sampling from the column of the first one is the baseline
        for distribution reweighting.
    """
    means = np.concatenate([basis.matrix, histogram[:, None]], axis=1).T @ centroids
    means -= means.mean(axis=0)
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    cosines = means[:-1] @ means[-1]
    return {basis.names[index]: float(cosines[index]) for index in np.argsort(-cosines, kind="stable")}
