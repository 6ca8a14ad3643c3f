"""Histograms of documents over domains, the weights of importance sampling."""

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

_logger = logging.getLogger(__name__)

Embed = Callable[[Sequence[str]], NDArray[np.floating]]


def nearest_domain_histogram(
    domains: Mapping[str, Sequence[str]], documents: Sequence[str], embedding: Embed
) -> dict[str, float]:
    """Fraction of the documents that are nearest to the mean vector of each domain.

    Sampling domains by this histogram is CRISP (arXiv 2410.03735), with named domains instead of clusters. A document
    that is equally near to several domains counts for them in equal parts. A document whose vector is zero, because it
    shares nothing with the corpus, counts for all domains in equal parts; a warning gives the number of these.

    Args:
        domains: Documents of each domain.
        documents: The documents to count, such as a target set.
        embedding: Maps n documents to unit vectors ``[n, dimensions]``.

    Returns:
        The fraction for every domain; they sum to one.

    Raises:
        ValueError: If there is no document.
    """
    if not documents:
        raise ValueError("`documents` is empty; a histogram needs at least one.")
    means = np.stack([embedding(texts).mean(axis=0) for texts in domains.values()])
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    centroids = np.divide(means, lengths, out=np.zeros_like(means), where=lengths > 0)
    vectors = embedding(documents)
    known = vectors.any(axis=1)
    if not known.all():
        _logger.warning(
            "%d of %d documents have nothing in common with any domain that the embedding knows; they count for all "
            "domains in equal parts.",
            *((~known).sum(), len(documents)),
        )
    cosines = vectors @ centroids.T
    if lengths.any():
        # a domain whose vector is zero is near to nothing, even if the cosines of all others are negative
        cosines[known] = np.where(lengths[:, 0] > 0, cosines[known], -np.inf)
    # cosines that are equal up to rounding count as equal
    rounding = vectors.shape[1] * np.finfo(vectors.dtype).eps
    nearest = cosines >= cosines.max(axis=1, keepdims=True) - rounding
    shares = (nearest / nearest.sum(axis=1, keepdims=True)).mean(axis=0)
    return dict(zip(domains, shares.tolist(), strict=True))


def label_histogram(labels: NDArray[np.integer], clusters: int) -> NDArray[np.float64]:
    """Fraction of documents in each cluster, as in CRISP (arXiv 2410.03735).

    Args:
        labels: Cluster of each document, ``[n]``.
        clusters: Number of clusters, k.

    Returns:
        The fractions ``[k]``, which sum to one.

    Raises:
        ValueError: If there is no document.
    """
    if not len(labels):
        raise ValueError("`labels` is empty; a histogram needs at least one document.")
    return np.bincount(labels, minlength=clusters) / len(labels)
