"""How far ahead the data of a run is planned."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_dga.core.data_budget import DataBudget


def exposure(seen=0.0, sizes=(100.0, 200.0), planned=None, **of_run):
    seen, sizes = (torch.tensor(numbers, dtype=torch.float64) for numbers in ([seen, 0.0], sizes))
    return DataBudget(seen, sizes, planned, **of_run)


def test_a_credible_length_is_planned_as_a_whole():
    assert exposure(planned=3000.0).horizon() == 3000
    assert exposure(seen=2900.0, planned=3000.0, ahead=10.0).horizon() == 3000
    # what is drawn beyond the plan is part of it
    assert exposure(seen=3100.0, planned=3000.0).horizon() == 3100


def test_a_run_that_may_end_at_any_moment_is_planned_a_little_ahead():
    for of_run in ({}, {"planned": 3000.0, "may_end_early": True}):
        assert exposure(seen=800.0, ahead=10.0, **of_run).horizon() == 1000
        assert exposure(seen=800.0, ahead=10.0, **of_run).horizon(2.0) == 1600
        # weights stay in force until they can be changed
        assert exposure(seen=800.0, ahead=500.0, **of_run).horizon() == 1300
        # it does not end before its least length
        assert exposure(seen=800.0, ahead=10.0, least=2000.0, **of_run).horizon() == 2000
    assert exposure(seen=2900.0, planned=3000.0, may_end_early=True).horizon() == 3000


def test_weights_that_are_set_once_are_planned_for_one_pass_over_all_data():
    assert exposure().horizon() == 300
    assert exposure(sizes=(100.0, math.inf)).horizon() == 100
    assert exposure(sizes=(math.inf, math.inf)).horizon() == 1


def test_a_length_of_many_passes_is_no_length():
    assert exposure(seen=80.0, planned=300.0 * 16, ahead=0.0).horizon() == 100
    assert exposure(seen=80.0, planned=300.0 * 1000, ahead=0.0).horizon() == 100
    # streams have no end that they could be passed over to
    assert exposure(sizes=(100.0, math.inf), planned=1e9).horizon() == 1e9


@given(seen=st.floats(0, 1e6), planned=st.floats(1, 1e9), more=st.floats(1, 1.01), ahead=st.floats(0, 1e4))
def test_it_has_no_jumps_and_stays_within_the_run(seen, planned, more, ahead):
    one, other = (exposure(seen=seen, planned=length, ahead=ahead).horizon() for length in (planned, planned * more))
    assert max(seen, 1.0) <= one <= max(planned, seen, 1.0)
    # from 10 to 16 passes the horizon falls from the planned length to what is just ahead: its logarithm by
    # `log(planned / soon)`, and the length grows by `more`
    soon = max(1.25 * seen, seen + ahead, 1.0)
    steepest = max(abs(math.log(planned * more / soon)), math.log(more)) * planned * (more - 1) / 300 / 6
    assert abs(math.log(other / one)) <= steepest + math.log(more) + 1e-9


def test_mixtures_of_domains_have_the_horizon_of_the_domains():
    of_domains = exposure(seen=800.0, planned=1e6, ahead=10.0)
    of_mixtures = of_domains.of_mixtures(torch.tensor([[0.5, 0.5], [0.9, 0.1]]).double())
    assert of_mixtures.horizon(1.5) == of_domains.horizon(1.5) == 1200
