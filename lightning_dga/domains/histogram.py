"""How a set of documents spreads over domains: the weights of importance sampling."""

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

_logger = logging.getLogger(__name__)

Embed = Callable[[Sequence[str]], NDArray[np.floating]]


def nearest_domain_histogram(
    domains: Mapping[str, Sequence[str]], documents: Sequence[str], embedding: Embed
) -> dict[str, float]:
    """Shares of the documents that are nearest to each domain's mean vector.

    Sampling domains by this histogram is CRISP (arXiv 2410.03735), with named domains in place of clusters. A document
    that several domains are equally near to counts for each of them in equal parts; so does one of which nothing is
    known, whose vector is zero, for all domains. A warning says how many those are.

    Args:
        domains: Documents of each domain.
        documents: The documents to place, as of a target set.
        embedding: Unit vectors ``[n, dimensions]`` of n documents.

    Returns:
        A share for every domain, summing to one.

    Raises:
        ValueError: If there is nothing to place.
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
            "domains alike.",
            *((~known).sum(), len(documents)),
        )
    cosines = vectors @ centroids.T
    if lengths.any():
        # nothing is near to a domain of which nothing is known, also where all others point away
        cosines[known] = np.where(lengths[:, 0] > 0, cosines[known], -np.inf)
    # sums of as many products differ by their rounding
    rounding = vectors.shape[1] * np.finfo(vectors.dtype).eps
    nearest = cosines >= cosines.max(axis=1, keepdims=True) - rounding
    shares = (nearest / nearest.sum(axis=1, keepdims=True)).mean(axis=0)
    return dict(zip(domains, shares.tolist(), strict=True))


def label_histogram(labels: NDArray[np.integer], clusters: int) -> NDArray[np.float64]:
    """Shares of documents that fall into each cluster: CRISP (arXiv 2410.03735).

    Args:
        labels: Cluster of each document, ``[n]``.
        clusters: Number of clusters, k.

    Returns:
        ``[k]``, summing to one.

    Raises:
        ValueError: If there is no document.
    """
    if not len(labels):
        raise ValueError("`labels` is empty; a histogram needs at least one document.")
    return np.bincount(labels, minlength=clusters) / len(labels)
