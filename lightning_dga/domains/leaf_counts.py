"""The number of leaves of each branch of a tree."""

import numpy as np
from numpy.typing import NDArray


def branching(leaves: int, levels: int) -> int:
    """The smallest number of children per node with which a tree of ``levels`` levels has ``leaves`` leaves.

    Example:
        >>> branching(262_144, 3), branching(262_145, 3), branching(5, 1)
        (64, 65, 5)
    """
    # a floating-point root may be off by one
    children = max(1, round(leaves ** (1 / levels)))
    while children**levels < leaves:
        children += 1
    while children > 1 and (children - 1) ** levels >= leaves:
        children -= 1
    return children


def share_leaves(leaves: int, sizes: NDArray[np.integer]) -> NDArray[np.int64]:
    """Distributes leaves over branches in proportion to their sizes: at least one each, and at most its size.

    Args:
        leaves: Number of leaves, at least one per branch.
        sizes: Number of distinct vectors of each branch, ``[branches]``, all positive.

    Returns:
        Number of leaves of each branch, ``[branches]``; their sum is ``leaves``, or that of ``sizes`` if it is less.

    Example:
        >>> share_leaves(10, np.array([1, 2, 17])).tolist()
        [1, 1, 8]
    """
    spare = sizes.astype(np.int64) - 1
    extra = min(leaves - len(sizes), int(spare.sum()))
    if extra <= 0:
        return np.ones(len(sizes), dtype=np.int64)
    quota = extra * (spare / spare.sum())
    shares = np.minimum(np.floor(quota).astype(np.int64), spare)
    # the remaining leaves go to the largest remainders, one each
    left = extra - int(shares.sum())
    order = np.argsort(np.where(shares < spare, shares - quota, np.inf), kind="stable")
    shares[order[:left]] += 1
    return 1 + shares
