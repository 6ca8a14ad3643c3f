import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_dga.domains.leaf_counts import branching, share_leaves


@given(st.integers(1, 10**7), st.integers(1, 5))
def test_branching_is_the_least_that_is_enough(leaves, levels):
    children = branching(leaves, levels)
    assert children**levels >= leaves
    assert children == 1 or (children - 1) ** levels < leaves


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=50), st.integers(0, 5000))
def test_leaves_are_shared_out_to_the_last(sizes, more):
    sizes = np.array(sizes)
    leaves = len(sizes) + more
    shares = share_leaves(leaves, sizes)
    assert shares.sum() == min(leaves, sizes.sum())
    assert (shares >= 1).all() and (shares <= sizes).all()


def test_they_go_where_the_vectors_are():
    assert share_leaves(100, np.array([1000, 3000])) == pytest.approx([25, 75], abs=1)
