"""The usual size of a target gradient."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_dga.core.usual_norm import UsualNorm

SHARE = 0.1
sizes = st.floats(-80, 80).map(math.exp)


def after(norms, usual=None):
    usual = usual or UsualNorm()
    for norm in norms:
        usual = usual.updated(norm, SHARE)
    return usual


def test_it_is_a_geometric_moving_average():
    assert after([2.0, 3.0]).value == pytest.approx(2.0 ** (0.09 / 0.19) * 3.0 ** (0.1 / 0.19))


@pytest.mark.parametrize("none", [0.0, math.inf, math.nan, -1.0])
def test_what_has_no_size_is_no_measurement(none):
    assert after([none]) == UsualNorm() and math.isnan(after([none]).value)
    assert after([1.0, none, 2.0, none]) == after([1.0, 2.0])


@pytest.mark.parametrize("outlier", [1e-30, 1e30])
def test_an_outlier_counts_as_twice_or_half(outlier):
    steady = after([1.0] * 50)
    moved = steady.updated(outlier, SHARE)
    assert abs(math.log(moved.value)) == pytest.approx(SHARE * math.log(2), rel=0.01)
    assert after([1.0] * 10, moved).value == pytest.approx(1.0, abs=0.03)


@settings(max_examples=100, deadline=None)
@given(before=st.lists(sizes, max_size=12), level=sizes)
def test_it_finds_a_new_level_within_five_measurements(before, level):
    assert level / 2.01 <= after([level] * 5, after(before)).value <= level * 2.01


@settings(max_examples=20, deadline=None)
@given(outliers=st.lists(st.sampled_from([1e-30, 1e-6, 1e6, 1e30]), min_size=30, max_size=30))
def test_outliers_in_every_third_measurement_do_not_carry_it_off(outliers):
    usual = after([1.0] * 20)
    for outlier in outliers:
        usual = after([1.0, outlier, 1.0], usual)
        assert 1 / 2 < usual.value < 2


@given(norms=st.lists(sizes, max_size=8))
def test_it_can_be_kept_as_a_tensor(norms):
    usual = after(norms)
    assert UsualNorm.from_tensor(usual.as_tensor()) == usual
    # checkpoints of before hold the first two numbers alone
    again = UsualNorm.from_tensor(usual.as_tensor()[:2]).updated(1.0, SHARE)
    assert len(again.recent) == 1 and 0.4 < again.value < 2.1
