import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_dga.alignments import Alignments
from lightning_dga.reweighting import DGA, RULES, Importance, PaperDGA, Static, Uniform, make_rule
from lightning_dga.weights import as_weights

NAMES = ("a", "b", "c")
EVERY_RULE = [DGA(), PaperDGA(), Static(), Uniform(), Importance({"a": 3, "b": 1, "c": 0})]
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def measured(values, target_norm=1.0, counts=None):
    values = torch.as_tensor(values, dtype=torch.float64)
    counts = torch.full((len(values),), 4) if counts is None else torch.as_tensor(counts)
    return Alignments(values, counts, torch.ones(len(values)).double(), 1.0, target_norm, 1)


def run(rule, updates, weights=WEIGHTS):
    weights, state = rule.start(NAMES, weights)
    history = [weights]
    for alignments in updates:
        weights, state = rule.update(weights, alignments, state)
        history.append(weights)
    return history


finite = st.floats(-1e6, 1e6)


@pytest.mark.parametrize("rule", EVERY_RULE, ids=lambda rule: type(rule).__name__)
@settings(max_examples=40, deadline=None)
@given(
    updates=st.lists(st.tuples(st.lists(finite, min_size=3, max_size=3), st.floats(1e-6, 1e6)), min_size=1, max_size=20)
)
def test_weights_stay_on_the_simplex_in_float64(rule, updates):
    for weights in run(rule, [measured(values, norm) for values, norm in updates]):
        assert weights.dtype == torch.float64
        assert (weights >= 0).all()
        assert weights.sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("rule", EVERY_RULE, ids=lambda rule: type(rule).__name__)
def test_updates_are_pure(rule):
    weights, state = rule.start(NAMES, WEIGHTS)
    before = weights.clone(), {name: value.clone() for name, value in state.items()}
    alignments = measured([1.0, -1.0, 0.5])
    first, second = rule.update(weights, alignments, state), rule.update(weights, alignments, state)
    torch.testing.assert_close((weights, state), before, rtol=0, atol=0)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("rule", [DGA(), PaperDGA()], ids=["dga", "dga_paper"])
@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.floats(-2, 2), min_size=3, max_size=3), order=st.permutations(range(3)))
def test_domains_can_be_listed_in_any_order(rule, values, order):
    straight = run(rule, [measured(values)] * 3)[-1]
    shuffled = run(rule, [measured([values[i] for i in order])] * 3, WEIGHTS[list(order)])[-1]
    torch.testing.assert_close(shuffled, straight[list(order)])


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.floats(-2, 2), min_size=3, max_size=3), scale=st.floats(1e-4, 1e4))
def test_dga_does_not_change_when_losses_are_rescaled(values, scale):
    # a loss times s has inner products times s², and a target gradient times s
    rescaled = run(DGA(), [measured([v * scale**2 for v in values], scale)] * 3)[-1]
    torch.testing.assert_close(rescaled, run(DGA(), [measured(values)] * 3)[-1])


def test_dga_equals_the_step_by_hand():
    rule = DGA(step_size=0.5, ema=0.25, decay=0.2)
    _, once, twice = run(rule, [measured([2.0, -1.0, 8.0], target_norm=2.0)] * 2)
    gains = [0.5, -0.25, 1.0]  # values / 4, cut to [-1, 1]
    logits = [0.5 * g for g in gains]
    new = [w * math.exp(z) for w, z in zip(WEIGHTS.tolist(), logits, strict=True)]
    expected = [0.75 * w + 0.25 * n / sum(new) for w, n in zip(WEIGHTS.tolist(), new, strict=True)]
    assert once.tolist() == pytest.approx(expected)
    logits = [0.8 * z + 0.5 * g for z, g in zip(logits, gains, strict=True)]
    new = [w * math.exp(z) for w, z in zip(WEIGHTS.tolist(), logits, strict=True)]
    assert twice.tolist() == pytest.approx([0.75 * w + 0.25 * n / sum(new) for w, n in zip(expected, new, strict=True)])


def test_the_published_rule_equals_the_step_by_hand():
    rule = PaperDGA(step_size=0.5, ema=0.25)
    _, once, twice = run(rule, [measured([2.0, -1.0, 0.0])] * 2)
    first = [w * math.exp(0.5 * a) for w, a in zip(WEIGHTS.tolist(), [2.0, -1.0, 0.0], strict=True)]
    first = [w / sum(first) for w in first]
    expected = [0.75 * w + 0.25 * n for w, n in zip(WEIGHTS.tolist(), first, strict=True)]
    assert once.tolist() == pytest.approx(expected)
    second = [w * math.exp(0.5 * a) for w, a in zip(first, [2.0, -1.0, 0.0], strict=True)]
    second = [w / sum(second) for w in second]
    assert twice.tolist() == pytest.approx([0.75 * w + 0.25 * n for w, n in zip(expected, second, strict=True)])


@pytest.mark.parametrize("rule", ["dga", "dga_paper"])
def test_an_aligned_domain_rises_and_an_opposed_one_falls(rule):
    before, after = run(make_rule(rule), [measured([1.0, 0.0, -1.0])])
    assert after[0] > before[0] and after[2] < before[2]


def test_dga_comes_back_when_the_alignment_fades():
    history = run(DGA(), [measured([1.0, 0.0, 0.0])] * 60 + [measured([0.0, 0.0, 0.0])] * 60)
    assert history[60][0] > 0.95
    torch.testing.assert_close(history[-1], WEIGHTS, atol=0.01, rtol=0)


def test_dga_is_not_locked_by_one_exploding_probe():
    history = run(DGA(step_size=1.0), [measured([0.1, 1e6, 0.1])] + [measured([0.5, 0.1, 0.1])] * 40)
    assert history[1][1] < 0.5
    assert history[-1][0] > 0.9
    locked = run(PaperDGA(), [measured([0.1, 1e6, 0.1])] + [measured([0.5, 0.1, 0.1])] * 40)
    assert locked[-1][1] > 0.95


@pytest.mark.parametrize("rule", ["dga", "dga_paper"])
def test_a_domain_that_was_not_measured_breaks_nothing(rule):
    weights = run(make_rule(rule), [measured([1.0, float("nan"), 0.0], counts=[4, 0, 4])])[-1]
    assert weights.isfinite().all()
    assert weights[0] > WEIGHTS[0]


@pytest.mark.parametrize("rule", ["dga", "dga_paper"])
def test_a_domain_of_weight_zero_stays_out(rule):
    weights = run(make_rule(rule), [measured([0.0, 1.0, 0.0])] * 5, torch.tensor([0.5, 0.0, 0.5]).double())[-1]
    assert weights[1] == 0


def test_uniform_and_importance_decide_at_the_start():
    assert Uniform().start(NAMES, WEIGHTS)[0].tolist() == [1 / 3] * 3
    assert Importance({"c": 0, "a": 3, "b": 1}).start(NAMES, WEIGHTS)[0].tolist() == [0.75, 0.25, 0]


def test_a_histogram_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match="`histogram` misses 'b', 'c'"):
        Importance({"a": 3}).start(NAMES, WEIGHTS)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("dgaa", {}, "`rule` 'dgaa' is unknown; choose one of dga, dga_paper"),
        ("static", {"step_size": 1.0}, "'static' does not take these settings"),
        ("importance", {}, "histogram"),
        ("dga", {"step_size": -1.0}, "`step_size` must be positive"),
        ("dga", {"ema": 0.0}, "`ema` must be in"),
        ("dga", {"decay": 1.0}, "`decay` must be in"),
    ],
)
def test_wrong_settings_are_named(name, given, message):
    with pytest.raises(ValueError, match=message):
        make_rule(name, **given)


def test_every_rule_is_registered_once():
    assert sorted(RULES) == ["dga", "dga_paper", "importance", "static", "uniform"]


def test_the_state_is_of_tensors_that_a_checkpoint_can_hold(tmp_path):
    for rule in EVERY_RULE:
        _, state = rule.start(NAMES, as_weights(None, NAMES))
        torch.save(state, tmp_path / "state")
        torch.testing.assert_close(torch.load(tmp_path / "state", weights_only=True), state)
