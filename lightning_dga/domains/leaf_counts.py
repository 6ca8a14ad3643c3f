"""The number of leaves of each branch of a tree."""

import numpy as np
from numpy.typing import NDArray


def branching(leaves: int, levels: int) -> int:
    """The fewest children that each node needs for a tree of ``levels`` levels to have ``leaves`` leaves.

    Example:
        >>> branching(262_144, 3), branching(262_145, 3), branching(5, 1)
        (64, 65, 5)
    """
    # a root in floating point may be off by one
    children = max(1, round(leaves ** (1 / levels)))
    while children**levels < leaves:
        children += 1
    while children > 1 and (children - 1) ** levels >= leaves:
        children -= 1
    return children


def share_leaves(leaves: int, sizes: NDArray[np.integer]) -> NDArray[np.int64]:
    """Shares leaves among branches in proportion to their sizes: one for each, and to none more than its size.

    Args:
        leaves: How many there are, at least one for each branch.
        sizes: How many different vectors each branch has, ``[branches]``, all positive.

    Returns:
        Leaves of each branch, ``[branches]``, with the sum of ``leaves``, or of ``sizes`` where that is less.

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
    # what is left goes to the largest remainders, one each
    left = extra - int(shares.sum())
    order = np.argsort(np.where(shares < spare, shares - quota, np.inf), kind="stable")
    shares[order[:left]] += 1
    return 1 + shares
