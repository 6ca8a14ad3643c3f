"""Plans that limit repetition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_dga.core.data_budget import DataBudget
from lightning_dga.reweighting import DGA, WaterFilling
from lightning_dga.reweighting.repetition import planned_samples, remaining
from tests.helpers.rules import NAMES, UNIFORM, exposure

ALL = torch.ones(3, dtype=torch.bool)


def plan(shares, epochs=15.0, allowed=ALL, **of_run):
    return planned_samples(torch.tensor(shares).double(), exposure(**of_run), epochs, allowed)


def test_plenty_of_data_leaves_the_shares_as_they_are():
    assert plan([0.7, 0.3, 0.0], sizes=(1000, 1000, 1000)).tolist() == pytest.approx([2100, 900, 0])


def test_what_would_be_repeated_too_often_goes_to_all_alike():
    # 3000 of 100 would be 30 passes: 15 of them, and 5 more of everything
    assert plan([1.0, 0.0, 0.0]).tolist() == pytest.approx([2000, 500, 500])
    # by passes, not by samples
    assert plan([1.0, 0.0, 0.0], sizes=(100, 300, 100)).tolist() == pytest.approx([1800, 900, 300])


def test_a_large_domain_keeps_its_share_beside_a_small_one_that_is_cut():
    assert plan([0.5, 0.5, 0.0], sizes=(10, 10**6, 10)).tolist() == pytest.approx([150, 1500 + 1350, 0], abs=10)


def test_a_stream_takes_what_is_left_over():
    planned = plan([1.0, 0.0, 0.0], sizes=(100, float("inf"), 100))
    assert planned.sum().item() == pytest.approx(3000) and planned[1] > 1300


@settings(max_examples=100, deadline=None)
@given(
    shares=st.lists(st.floats(0, 1), min_size=3, max_size=3).filter(sum),
    sizes=st.lists(st.integers(1, 10**6), min_size=3, max_size=3),
    epochs=st.floats(0.1, 100),
    planned=st.floats(1, 1e9),
)
def test_a_plan_fills_the_run_and_repeats_nothing_too_often(shares, sizes, epochs, planned):
    shares = torch.tensor(shares).double() / sum(shares)
    of_run = exposure(sizes=sizes, planned=planned)
    found = planned_samples(shares, of_run, epochs, ALL)
    assert found.sum().item() == pytest.approx(of_run.horizon())
    passes = found / torch.tensor(sizes)
    # what the run cannot exhaust counts as large as the run, so that it may get fewer passes of what is left over
    assert passes.max() - passes.min() <= epochs * 1.0001 or (torch.tensor(sizes) > planned).any()


def test_a_domain_that_is_not_allowed_gets_nothing():
    assert plan([1.0, 0.0, 0.0], allowed=torch.tensor([True, True, False])).tolist() == pytest.approx([2250, 750, 0])


def test_the_rest_of_a_run_fulfils_the_plan():
    total = torch.tensor([2000.0, 500.0, 500.0]).double()
    weights = remaining(total, torch.tensor([0.0, 900.0, 100.0]).double())
    assert weights.tolist() == pytest.approx([2500 / 3150, 125 / 3150, 525 / 3150])
    assert remaining(total, total).tolist() == pytest.approx((total / 3000).tolist())


def test_water_filling_is_importance_sampling_with_a_limit():
    rule = WaterFilling({"a": 1, "b": 0, "c": 0}, epochs=10)
    weights, _ = rule.start(NAMES, UNIFORM, exposure())
    assert weights.tolist() == pytest.approx([(1000 + 2000 / 3) / 3000, 2 / 9, 2 / 9])
    weights, _ = WaterFilling([3, 1, 0]).start(NAMES, UNIFORM, exposure(sizes=(10**6,) * 3))
    assert weights.tolist() == [0.75, 0.25, 0]


def share_of_the_best(passes, epochs=8.0, k=3, size=100.0, updates=200, **of_run):
    """Samples drawn from a domain that should get all, in a run whose length the rule knows or not."""
    seen, sizes = torch.zeros(k).double(), torch.full((k,), size).double()
    shares = torch.eye(k, dtype=torch.float64)[0]
    step = passes * size / updates
    for _ in range(updates):
        now = DataBudget(seen, sizes, ahead=step, **of_run)
        plan = planned_samples(shares, now, epochs, torch.ones(k, dtype=torch.bool))
        seen = seen + step * remaining(plan, seen)
    return (seen[0] / seen.sum()).item()


@pytest.mark.parametrize("k", [2, 3, 10, 50])
@pytest.mark.parametrize("passes", [1, 4, 8, 9, 12, 16, 30])
def test_wherever_a_run_ends_it_has_drawn_what_a_plan_of_its_length_draws(k, passes):
    # `passes` are those over the best domain, if it alone were drawn
    known = share_of_the_best(passes, k=k, planned=100.0 * passes)
    assert share_of_the_best(passes, k=k) >= 0.9 * known
    assert share_of_the_best(passes, k=k, planned=1e9) >= 0.9 * known
    assert share_of_the_best(passes, k=k, planned=200.0 * passes, may_end_early=True) >= 0.9 * known


@pytest.mark.parametrize("lookahead", [0.9, float("inf"), float("nan")])
def test_a_horizon_behind_the_run_or_without_end_is_refused(lookahead):
    with pytest.raises(ValueError, match="`lookahead` must be at least 1, and finite"):
        DGA(lookahead=lookahead)


def test_the_exposure_of_a_mixture_is_that_of_its_samples():
    of_domains = exposure(seen=(200, 0, 50), sizes=(100, 100, 50), planned=None)
    mixtures = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [0, 0, 1]]).double()
    found = of_domains.of_mixtures(mixtures)
    assert found.epochs.tolist() == pytest.approx([2.0, 1.0, 1.0])
    # 200 samples, half and half, go through both once
    assert found.sizes.tolist() == pytest.approx([100, 200, 50])
    assert found.horizon() == of_domains.horizon()
    endless = DataBudget(torch.zeros(1).double(), torch.tensor([torch.inf]).double())
    assert endless.of_mixtures(torch.ones(1, 1).double()).seen.tolist() == [0]
