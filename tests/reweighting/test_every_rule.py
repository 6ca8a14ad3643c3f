"""Properties of every rule."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_dga.core.alignments import Alignments
from lightning_dga.core.data_budget import DataBudget
from lightning_dga.reweighting import DGA, RULES, DoGE, DoReMi, Grape, Importance, PaperDGA, WaterFilling
from tests.helpers.rules import EVERY_RULE, NAMES, WEIGHTS, exposure, of_two_targets, run

every_rule = pytest.mark.parametrize("rule", EVERY_RULE.values(), ids=EVERY_RULE)
finite = st.floats(-1e6, 1e6)
triple = st.lists(finite, min_size=3, max_size=3)
norm = st.floats(1e-6, 1e6)


def on_the_simplex(weights):
    return weights.dtype == torch.float64 and bool((weights >= 0).all()) and abs(weights.sum().item() - 1) < 1e-12


@every_rule
@settings(max_examples=30, deadline=None)
@given(
    updates=st.lists(st.tuples(triple, triple, norm, norm), min_size=1, max_size=15),
    draws=st.sampled_from([0, 1, 1000]),
    planned=st.sampled_from([None, 0.0, 100.0, 1e9]),
)
def test_weights_stay_on_the_simplex_in_float64(rule, updates, draws, planned):
    alignments = [of_two_targets(easy, hard, (2.0, 3.0), norms) for easy, hard, *norms in updates]
    assert all(map(on_the_simplex, run(rule, alignments, draws=draws, planned=planned)))


@pytest.mark.parametrize("updates", [1000, pytest.param(100_000, marks=pytest.mark.slow)])
@every_rule
def test_weights_stay_on_the_simplex_after_many_updates(rule, updates):
    generator = torch.Generator().manual_seed(0)
    size = torch.tensor([100.0, 1000.0, torch.inf]).double()
    weights, state = rule.start(NAMES, WEIGHTS, DataBudget(torch.zeros(3).double(), size, 10.0 * updates))
    seen = torch.zeros(3).double()
    for update, (numbers, big) in enumerate(
        zip(
            torch.randn(updates, 5, generator=generator).double(), torch.rand(updates, generator=generator), strict=True
        )
    ):
        # once in a while a probe explodes
        values = numbers[:3] * (1e9 if big > 0.999 else 1.0)
        losses = numbers[3:].abs()
        alignments = Alignments(
            values, torch.full((3,), 4), values.abs(), 1.0, losses[0].item(), 1, None, None, ("easy", "hard"),
            torch.stack([values, -values], 1), losses, losses,
        )  # fmt: skip
        seen = seen + 10 * weights
        weights, state = rule.update(weights, alignments, state, DataBudget(seen, size, 10.0 * updates))
        if update % 100 == 0 or not weights.sum().isfinite():
            assert on_the_simplex(weights), (update, weights)
    assert on_the_simplex(weights)


@every_rule
def test_updates_are_pure(rule):
    weights, state = rule.start(NAMES, WEIGHTS, exposure())
    before = weights.clone(), {name: value.clone() for name, value in state.items()}
    alignments = of_two_targets([1.0, -1.0, 0.5], [0.0, 0.2, 0.1])
    first, second = (rule.update(weights, alignments, state, exposure([5, 5, 5])) for _ in range(2))
    torch.testing.assert_close((weights, state), before, rtol=0, atol=0)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("name", [name for name in EVERY_RULE if name != "basis"])
@settings(max_examples=20, deadline=None)
@given(easy=st.lists(st.floats(-2, 2), min_size=3, max_size=3), order=st.permutations(range(3)))
def test_domains_can_be_listed_in_any_order(name, easy, order):
    rule, hard, sizes = EVERY_RULE[name], [0.3, -0.1, 0.2], (100, 300, 1000)
    straight = run(rule, [of_two_targets(easy, hard)] * 4, sizes=sizes)[-1]
    # settings that name the domains follow them
    histogram = [[3, 1, 0][i] for i in order]
    moved = {
        "dga with a prior": DGA(prior=histogram),
        "doremi": DoReMi([[1.0, 2.0, 3.0][i] for i in order]),
        "importance": Importance(histogram),
        "water_filling": WaterFilling(histogram),
    }.get(name, rule)
    easy, hard = ([values[i] for i in order] for values in (easy, hard))
    shuffled = run(moved, [of_two_targets(easy, hard)] * 4, WEIGHTS[list(order)], sizes=tuple(sizes[i] for i in order))[
        -1
    ]
    torch.testing.assert_close(shuffled, straight[list(order)])


@pytest.mark.parametrize("rule", [EVERY_RULE["dga"], EVERY_RULE["dga with a prior"]], ids=["dga", "with a prior"])
@settings(max_examples=30, deadline=None)
@given(updates=st.lists(st.lists(st.floats(-2, 2), min_size=3, max_size=3), min_size=4, max_size=4),
       scale=st.floats(1e-4, 1e4))  # fmt: skip
def test_dga_does_not_change_when_losses_are_rescaled(rule, updates, scale):
    # a loss times s has inner products times s², and a target gradient times s
    def history(s):
        hard = [0.0, 0.0, 0.0]
        return run(rule, [of_two_targets([v * s**2 for v in easy], hard, norms=(s, s)) for easy in updates])

    torch.testing.assert_close(history(scale)[-1], history(1.0)[-1], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("rule", [DGA(), PaperDGA(), DoGE(), Grape()], ids=lambda rule: type(rule).__name__)
def test_an_aligned_domain_rises_and_an_opposed_one_falls(rule):
    generator = torch.Generator().manual_seed(1)
    noise = 0.1 * torch.randn(6, 3, generator=generator)
    updates = [of_two_targets(*2 * [[1.0 + a, 0.0 + b, -1.0 + c]]) for a, b, c in noise.tolist()]
    history = run(rule, updates, sizes=(10**6,) * 3)
    assert history[-1][0] > WEIGHTS[0] and history[-1][2] < WEIGHTS[2]


@every_rule
def test_a_domain_that_was_not_measured_breaks_nothing(rule):
    for values in ([1.0, float("nan"), 0.0], [0.5, float("nan"), 0.1]):
        alignments = of_two_targets(values, values)
        alignments = Alignments(
            **{**vars(alignments), "counts": torch.tensor([4, 0, 4]), "losses": alignments.by_target[:, 0]}
        )
        assert all(map(on_the_simplex, run(rule, [alignments] * 3)))


@pytest.mark.parametrize("name", ["dga", "dga_paper", "doge", "doremi", "grape", "odm", "static", "water_filling"])
def test_a_domain_of_weight_zero_stays_out(name):
    zero = torch.tensor([0.5, 0.0, 0.5]).double()
    updates = [of_two_targets([0.0, 1.0, noise], [0.0, 1.0, 0.0]) for noise in (0.0, 0.1, -0.1, 0.05)]
    rule = WaterFilling({"a": 1, "b": 0, "c": 0}) if name == "water_filling" else EVERY_RULE[name]
    assert all(weights[1] == 0 for weights in run(rule, updates, zero))


@every_rule
def test_the_state_is_of_tensors_that_a_checkpoint_can_hold(tmp_path, rule):
    weights, state = rule.start(NAMES, WEIGHTS, exposure())
    _, state = rule.update(weights, of_two_targets([1.0, 0.0, 0.0], [0.0, 1.0, 0.0]), state, exposure())
    torch.save(state, tmp_path / "state")
    torch.testing.assert_close(torch.load(tmp_path / "state", weights_only=True), state)


def test_every_rule_is_registered_once_and_tested():
    assert {type(rule) for rule in EVERY_RULE.values()} >= set(RULES.values())
    assert len(set(RULES.values())) == len(RULES)
