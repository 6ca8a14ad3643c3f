"""Rules against target gradients of zero, tiny and huge norm, and missing and old measurements, in any order."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from lightning_dga.core.alignments import Alignments
from lightning_dga.core.data_budget import DataBudget
from lightning_dga.engine.alignment_averages import AlignmentAverages
from lightning_dga.reweighting import DGA, DistributionReweighting, DoGE, Grape, Guarded, PaperDGA
from tests.helpers.rules import EVERY_RULE, NAMES, UNIFORM, WEIGHTS, measured, of_two_targets, run

MEANS = (1.0, 0.2, 0.1)
PLENTY = {"sizes": (10**9,) * 3, "draws": 0}


def normal(seed, scale=1.0):
    """A measurement in which the first domain is the best; inner products are cosines times norms."""
    draw = torch.randn(3, generator=torch.Generator().manual_seed(seed)).double()
    return measured(scale * (torch.tensor(MEANS).double() + 0.1 * draw), scale)


def zero():
    return measured([0.0, 0.0, 0.0], 0.0)


def missing():
    return measured([math.nan] * 3, 1.0, counts=[0, 0, 0], losses=[math.nan] * 3)


def old():
    return measured([-5.0, 9.0, 5.0], 1.0, ages=torch.full((3,), 2))


SILENT = {"zero": zero, "missing": missing, "old": old}
kinds = st.sampled_from(["normal", "tiny", "huge", *SILENT])


def event(kind, seed):
    if kind in SILENT:
        return SILENT[kind]()
    return normal(seed, {"normal": 1.0, "tiny": 1e-25, "huge": 1e15}[kind])


def best_share(history):
    return history[-1][0].item()


@pytest.mark.parametrize("prior", [None, (1.0, 0.0, 0.0)], ids=["no prior", "prior"])
def test_one_zero_target_gradient_changes_nothing(prior):
    before, after = [normal(i) for i in range(30)], [normal(i) for i in range(30, 35)]
    disturbed = run(DGA(prior=prior), [*before, zero(), *after], UNIFORM, **PLENTY)
    undisturbed = run(DGA(prior=prior), [*before, *after], UNIFORM, **PLENTY)
    torch.testing.assert_close(disturbed[31], undisturbed[30], rtol=0, atol=0)
    torch.testing.assert_close(disturbed[-1], undisturbed[-1], rtol=0, atol=0)
    assert best_share(undisturbed) > 0.9


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_target_gradients_that_are_often_zero_do_not_hide_the_best_domain(share):
    at_random = torch.rand(100, generator=torch.Generator().manual_seed(1)) < share
    updates = [zero() if none else normal(i) for i, none in enumerate(at_random.tolist())]
    assert best_share(run(DGA(), updates, UNIFORM, **PLENTY)) > 0.9


@settings(max_examples=20, deadline=None)
@given(events=st.lists(kinds, min_size=1, max_size=20))
def test_zero_target_gradients_are_as_if_they_had_not_been(events):
    updates = [event(kind, i) for i, kind in enumerate(events)]
    without = [one for one in updates if one.target_norm > 0]
    torch.testing.assert_close(
        run(DGA(), updates, UNIFORM, **PLENTY)[-1], run(DGA(), without, UNIFORM, **PLENTY)[-1], rtol=0, atol=0
    )


@pytest.mark.parametrize("prior", [None, (1.0, 0.0, 0.0)], ids=["no prior", "prior"])
@settings(max_examples=15, deadline=None)
@given(events=st.lists(kinds, max_size=25))
def test_it_finds_the_best_domain_soon_after_anything(prior, events):
    updates = [event(kind, i) for i, kind in enumerate(events)] + [normal(1000 + i) for i in range(30)]
    assert best_share(run(DGA(prior=prior), updates, UNIFORM, **PLENTY)) > 0.8


@pytest.mark.parametrize("prior", [None, (0.2, 0.3, 0.5)], ids=["no prior", "prior"])
@given(events=st.lists(st.sampled_from(list(SILENT)), min_size=1, max_size=5))
@settings(max_examples=20, deadline=None)
def test_nothing_measured_leaves_the_start(prior, events):
    history = run(DGA(prior=prior), [SILENT[kind]() for kind in events], WEIGHTS, **PLENTY)
    torch.testing.assert_close(history[-1], history[0])


def test_doge_and_the_paper_hold_their_logits_where_the_target_gradient_is_zero():
    carried = replace(zero(), values=torch.tensor([1.0, 2.0, 3.0]).double(), ages=torch.ones(3).long())
    for one in (DoGE(), PaperDGA(ema=1.0), Grape()):
        first = run(one, [of_two_targets([1.0, 0.0, 0.0], [1.0, 0.0, 0.0])], UNIFORM)[-1]
        gone = of_two_targets([0.0] * 3, [0.0] * 3, losses=(0.0, 0.0), norms=(0.0, 0.0))
        then = run(one, [of_two_targets([1.0, 0.0, 0.0], [1.0, 0.0, 0.0]), gone], UNIFORM)[-1]
        torch.testing.assert_close(then, first)
    torch.testing.assert_close(run(DoGE(), [carried], UNIFORM)[-1], UNIFORM)


def test_a_guarded_target_without_a_gradient_leaves_the_other_in_charge():
    one = Guarded(DGA(), "hard", most=2.0)
    updates = [of_two_targets(normal(i).values.tolist(), [0.0] * 3, norms=(1.0, 0.0)) for i in range(30)]
    assert best_share(run(one, updates, UNIFORM, **PLENTY)) > 0.9
    silent = of_two_targets([0.0] * 3, [0.0] * 3, norms=(0.0, 0.0))
    disturbed = run(one, [*updates, silent], UNIFORM, **PLENTY)
    torch.testing.assert_close(disturbed[-1], disturbed[-2], rtol=0, atol=0)


def test_signal_to_noise_survives_zero_and_tiny_target_gradients():
    averages = AlignmentAverages()
    for i in range(40):
        averages = averages.updated(normal(i), 0.1)
    before = averages.signal_to_noise
    torch.testing.assert_close(averages.updated(zero(), 0.1).signal_to_noise, before, rtol=0, atol=0)
    # one value in ten that is twice the others: mean 1.1, deviation 0.3, a quarter of it left in the average
    assert averages.updated(normal(99, 1e-25), 0.1).signal_to_noise[0] > 10
    assert averages.smoothed(zero()).values.tolist() == [0.0, 0.0, 0.0]


class AnyRule(RuleBasedStateMachine):
    """Updates of every rule with whatever can be measured, in any order, while samples are drawn."""

    @initialize(name=st.sampled_from(sorted(EVERY_RULE)), planned=st.sampled_from([None, 1e3, 1e9]))
    def start(self, name, planned):
        self.rule, self.planned, self.seen = EVERY_RULE[name], planned, torch.zeros(3).double()
        self.sizes = torch.tensor([100.0, 1000.0, math.inf]).double()
        self.weights, self.state = self.rule.start(NAMES, WEIGHTS, self.exposure())

    def exposure(self):
        return DataBudget(self.seen, self.sizes, self.planned, ahead=10.0)

    def update(self, alignments):
        self.weights, self.state = self.rule.update(self.weights, alignments, self.state, self.exposure())

    @rule(samples=st.sampled_from([0, 1, 100, 10**6]))
    def draw(self, samples):
        self.seen = self.seen + samples * self.weights

    @rule(
        values=st.lists(st.sampled_from([0.0, 1.0, -1.0, 1e-30, 1e30, -1e30]), min_size=6, max_size=6),
        norms=st.lists(st.sampled_from([0.0, 1e-30, 1.0, 1e15, 1e30]), min_size=2, max_size=2),
        losses=st.lists(st.sampled_from([0.0, 1e-30, 1.0, 1e30]), min_size=2, max_size=2),
    )
    def measure(self, values, norms, losses):
        self.update(of_two_targets(values[:3], values[3:], losses, norms))

    @rule(counts=st.lists(st.sampled_from([0, 4]), min_size=3, max_size=3), age=st.integers(0, 3))
    def measure_a_part(self, counts, age):
        values = [1.0 if count else math.nan for count in counts]
        found = of_two_targets(values, values)
        self.update(
            Alignments(
                **{
                    **vars(found),
                    "counts": torch.tensor(counts),
                    "losses": found.by_target[:, 0],
                    "ages": torch.full((3,), age),
                }
            )
        )

    @invariant()
    def weights_are_on_the_simplex(self):
        if hasattr(self, "weights"):
            assert self.weights.dtype == torch.float64 and bool((self.weights >= 0).all())
            assert abs(self.weights.sum().item() - 1) < 1e-12

    @invariant()
    def nothing_that_is_remembered_is_lost(self):
        if hasattr(self, "state"):
            assert all(bool(value.isfinite().all()) for value in self.state.values() if value.is_floating_point())


def test_every_rule_stays_on_the_simplex_whatever_is_measured():
    run_state_machine_as_test(AnyRule, settings=settings(max_examples=25, stateful_step_count=15, deadline=None))


def test_mixtures_of_domains_are_held_to_the_same():
    basis = DistributionReweighting(DGA(), {"x": [1.0, 0.0, 0.0], "y": [0.0, 1.0, 0.0], "z": [0.0, 0.0, 1.0]})
    updates = [normal(i) for i in range(30)]
    disturbed = run(basis, [*updates, zero()], UNIFORM, **PLENTY)
    torch.testing.assert_close(disturbed[-1], disturbed[-2], rtol=0, atol=0)
    assert best_share(disturbed) > 0.9
