from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_dga.data.sampling.permutation import keys, permute


def whole(size, key):
    return permute(np.arange(size), np.full(size, size), np.repeat(key, size))


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 500), seed=st.integers(0, 2**63), domain=st.integers(0, 2**31), epoch=st.integers(0, 2**40))
def test_it_is_a_permutation(size, seed, domain, epoch):
    assert sorted(whole(size, keys(seed, domain, epoch))) == list(range(size))


def test_each_epoch_and_domain_has_its_own():
    orders = {tuple(whole(50, keys(0, domain, epoch))) for domain in range(4) for epoch in range(4)}
    assert len(orders) == 16


@pytest.mark.parametrize("size", [3, 4])
def test_all_permutations_are_about_as_likely(size):
    draws = 2400
    found = Counter(tuple(whole(size, keys(7, epoch))) for epoch in range(draws))
    expected = draws / {3: 6, 4: 24}[size]
    statistic = sum((found[order] - expected) ** 2 / expected for order in found)
    assert len(found) == {3: 6, 4: 24}[size]
    # the 99.9 % quantiles of chi-square with 5 and 23 degrees of freedom
    assert statistic < {3: 20.5, 4: 49.7}[size]


def test_sizes_and_keys_may_differ_from_position_to_position():
    sizes = np.array([3, 1000, 1, 7])
    key = keys(5, np.arange(4))
    together = permute(np.array([2, 999, 0, 3]), sizes, key)
    alone = [permute(np.array([p]), sizes[i : i + 1], key[i : i + 1])[0] for i, p in enumerate([2, 999, 0, 3])]
    assert together.tolist() == alone
    assert (together < sizes).all()
