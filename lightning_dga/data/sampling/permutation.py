"""A keyed permutation of ``range(n)`` in O(1) memory: the shuffled order within a domain.

A balanced Feistel network on the smallest even number of bits that can represent ``n``, iterated until the result is in
the range (format-preserving encryption by cycle walking, Black and Rogaway, CT-RSA 2002). Any position of any epoch of
any domain is computed directly, so nothing has to be stored, replayed or sent to a worker.
"""

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 6
_MULTIPLIERS = (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53))
_SHIFT = np.uint64(33)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scrambles 64-bit integers one by one (the finalizer of MurmurHash3)."""
    for multiplier in _MULTIPLIERS:
        values = (values ^ (values >> _SHIFT)) * multiplier
    return values ^ (values >> _SHIFT)


def keys(seed: int, *parts: NDArray[np.int64] | int) -> NDArray[np.uint64]:
    """Hashes a seed and integer parts, broadcast together, into 64-bit keys."""
    key = mix(np.asarray([seed & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64) + _GOLDEN)
    for part in parts:
        key = mix(key * _GOLDEN + np.asarray(part).astype(np.uint64))
    return key


def permute(positions: NDArray[np.int64], sizes: NDArray[np.int64], key: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Maps each position to its image under the permutation of ``range(size)`` that its key selects.

    Args:
        positions: The positions, ``[n]`` int64, ``0 <= positions < sizes``.
        sizes: Length of the permuted range, ``[n]`` int64, at least 1.
        key: Selects the permutation, ``[n]`` uint64.

    Returns:
        The images, ``[n]`` int64; over all positions of one size and key they are a permutation.
    """
    bits = np.ceil(np.log2(np.maximum(sizes, 2))).astype(np.uint64)
    half = (bits + np.uint64(1)) >> np.uint64(1)
    image = positions.astype(np.uint64)
    limit = sizes.astype(np.uint64)
    outside = np.arange(len(image))
    while len(outside):
        image[outside] = _feistel(image[outside], half[outside], key[outside])
        outside = outside[image[outside] >= limit[outside]]
    return image.astype(np.int64)


def _feistel(values: NDArray[np.uint64], half: NDArray[np.uint64], key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for round_index in range(_ROUNDS):
        scrambled = mix(right * _GOLDEN + key + np.uint64(round_index))
        left, right = right, left ^ (scrambled >> np.uint64(32) & mask)
    return (left << half) | right
