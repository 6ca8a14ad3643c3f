"""The published rules equal their steps computed by hand."""

import math

import pytest
import torch

from lightning_dga.reweighting import (
    ODM,
    DoGE,
    DoReMi,
    Grape,
    Guarded,
    Importance,
    PaperDGA,
    Static,
    Uniform,
    make_rule,
)
from tests.helpers.rules import NAMES, UNIFORM, WEIGHTS, exposure, measured, of_two_targets, run

W = WEIGHTS.tolist()


def normalised(numbers):
    return [number / sum(numbers) for number in numbers]


def raised(weights, gains):
    return normalised([w * math.exp(gain) for w, gain in zip(weights, gains, strict=True)])


def between(old, new, share):
    return [(1 - share) * o + share * n for o, n in zip(old, new, strict=True)]


def test_dga_as_published():
    _, once, twice = run(PaperDGA(step_size=0.5, ema=0.25), [measured([2.0, -1.0, 0.0])] * 2)
    first = raised(W, [1.0, -0.5, 0.0])
    expected = between(W, first, 0.25)
    assert once.tolist() == pytest.approx(expected)
    assert twice.tolist() == pytest.approx(between(expected, raised(first, [1.0, -0.5, 0.0]), 0.25))


def test_dga_as_published_when_steps_start_from_the_average():
    _, once, twice = run(PaperDGA(step_size=0.5, ema=0.25, steps_from="averaged"), [measured([2.0, -1.0, 0.0])] * 2)
    expected = between(W, raised(W, [1.0, -0.5, 0.0]), 0.25)
    assert once.tolist() == pytest.approx(expected)
    assert twice.tolist() == pytest.approx(between(expected, raised(expected, [1.0, -0.5, 0.0]), 0.25))


def test_dga_as_published_is_locked_by_one_exploding_probe():
    locked = run(PaperDGA(), [measured([0.1, 1e6, 0.1])] + [measured([0.5, 0.1, 0.1])] * 40)
    assert locked[-1][1] > 0.95


def test_doge():
    # in units of the target's norm: 1, cut to 0, cut to 5
    _, once, twice = run(DoGE(step_size=0.5, smoothing=0.1), [measured([2.0, -3.0, 14.0], target_norm=2.0)] * 2)
    first = raised(W, [0.5, 0.0, 2.5])
    assert once.tolist() == pytest.approx(between(first, UNIFORM.tolist(), 0.1))
    assert twice.tolist() == pytest.approx(between(raised(first, [0.5, 0.0, 2.5]), UNIFORM.tolist(), 0.1))


def test_odm():
    losses = [2.0, 4.0, 3.0]
    start, once, *_, last = run(ODM(ema=0.5, reward_scale=10.0), [measured([0.0] * 3, losses=losses)] * 12)
    assert start.tolist() == W
    # explores alone at first: 1 - k e_1 = 0
    assert once.tolist() == pytest.approx([1 / 3] * 3)
    rewards = [(1 - 0.5**12) * loss / 10 for loss in losses]
    before, now = (math.sqrt(math.log(3) / (3 * t)) for t in (11, 12))
    chosen = raised([1 / 3] * 3, [before * reward for reward in rewards])
    assert last.tolist() == pytest.approx([(1 - 3 * now) * c + now for c in chosen])


def test_doremi():
    rule = DoReMi({"c": 3.0, "a": 1.0, "b": 2.0}, step_size=0.5, smoothing=0.1)
    _, once, twice = run(rule, [measured([0.0] * 3, losses=[3.0, 1.0, 4.0])] * 2)
    gains = [1.0, 0.0, 0.5]  # half the excess of 2, 0 (cut from -1), and 1
    first = between(raised(W, gains), [1 / 3] * 3, 0.1)
    assert once.tolist() == pytest.approx(first)
    assert twice.tolist() == pytest.approx(between(raised(first, gains), [1 / 3] * 3, 0.1))


@pytest.mark.parametrize("rule", [ODM(), DoReMi([1.0, 1.0, 1.0])], ids=["odm", "doremi"])
def test_rules_on_losses_need_losses(rule):
    with pytest.raises(ValueError, match="needs the loss of each domain, which this estimator does not see"):
        run(rule, [measured([0.0] * 3, losses=[math.nan] * 3)])


def test_grape():
    easy, hard = [2.0, 0.0, 1.0], [0.0, 8.0, 4.0]
    rule = Grape(step_size=0.5, target_step_size=2.0, target_smoothing=0.1)
    alignments = of_two_targets(easy, hard, losses=(1.0, 4.0))
    _, once, twice = run(rule, [alignments] * 2)
    gains = [[2.0, 0.0], [0.0, 2.0], [1.0, 1.0]]  # of the logarithms of the losses

    def by_hand(weights, targets):
        progress = [sum(w * g[n] for w, g in zip(weights, gains, strict=True)) for n in (0, 1)]
        targets = between(raised(targets, [-2 * p for p in progress]), [0.5, 0.5], 0.1)
        return raised(weights, [0.5 * (g[0] * targets[0] + g[1] * targets[1]) for g in gains]), targets

    first, targets = by_hand(W, [0.5, 0.5])
    assert targets[1] > 0.5, "the target that the mixture helps less is raised"
    assert once.tolist() == pytest.approx(first)
    assert twice.tolist() == pytest.approx(by_hand(first, targets)[0])


def test_a_guard_adds_the_guarded_target_while_its_loss_is_too_high():
    seen = []

    class Note(Static):
        def update(self, weights, alignments, state, exposure):
            seen.append(alignments)
            return weights, state

    rule = Guarded(Note(), "hard", most=2.0, step_size=0.5, largest=1.0)
    high, low = (of_two_targets([1.0, 2.0, 3.0], [4.0, -4.0, 0.0], (1.0, loss), (2.0, 4.0)) for loss in (3.0, 1.5))
    run(rule, [high, high, high, low])
    # easy's own, plus the multiplier times hard's in easy's units: 2² / 4² of it
    for alignments, multiplier in zip(seen, (0.25, 0.5, 0.75, 0.625), strict=True):
        assert alignments.values.tolist() == pytest.approx([1 + multiplier, 2 - multiplier, 3.0])
        assert alignments.target_norm == pytest.approx(2.0) and alignments.targets == ("easy",)


def test_a_guard_names_the_target_that_it_misses():
    with pytest.raises(ValueError, match="`target` 'general' is to be guarded beside another target"):
        run(Guarded(Static(), "general", most=2.0), [of_two_targets([0.0] * 3, [0.0] * 3)])


def test_uniform_and_importance_decide_at_the_start():
    assert Uniform().start(NAMES, WEIGHTS, exposure())[0].tolist() == [1 / 3] * 3
    assert Importance({"c": 0, "a": 3, "b": 1}).start(NAMES, WEIGHTS, exposure())[0].tolist() == [0.75, 0.25, 0]


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("dgaa", {}, "`rule` 'dgaa' is unknown; choose one of dga, dga_paper"),
        ("static", {"step_size": 1.0}, "'static' does not take these settings"),
        ("importance", {}, "histogram"),
        ("dga", {"step_size": -1.0}, "`step_size` must be positive"),
        ("dga", {"ema": 0.0}, "`ema` must be in"),
        ("dga", {"epochs": 0}, "`epochs` must be positive"),
        ("dga_paper", {"steps_from": "both"}, "`steps_from` must be one of unsmoothed, averaged"),
        ("doge", {"smoothing": 1.0}, "`smoothing` must be in"),
        ("odm", {"reward_scale": 0.0}, "`reward_scale` must be positive"),
        ("grape", {"target_step_size": 0.0}, "`target_step_size` must be positive"),
    ],
)
def test_wrong_settings_are_named(name, given, message):
    with pytest.raises(ValueError, match=message):
        make_rule(name, **given)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Importance({"a": 3}), "`prior` misses 'b', 'c'"),
        (DoReMi([1.0, 2.0]), "`reference` has shape"),
        (make_rule("dga", prior={"a": 1, "b": 1, "d": 1}), "`prior` names the unknown domain 'd'"),
    ],
)
def test_what_does_not_fit_the_domains_is_named(rule, message):
    with pytest.raises(ValueError, match=message):
        rule.start(NAMES, WEIGHTS, exposure())


def test_targets_that_are_measured_apart_are_put_together():
    alignments = of_two_targets([1.0, 2.0, 3.0], [3.0, 2.0, 1.0], (1.0, 3.0), (2.0, 4.0))
    assert alignments.values.tolist() == [2.0] * 3 and alignments.by_target.tolist() == [[1, 3], [2, 2], [3, 1]]
    assert (alignments.target_loss, alignments.target_norm) == (2.0, 3.0)
    again = type(alignments).from_state_dict(alignments.state_dict())
    torch.testing.assert_close(again.by_target, alignments.by_target)
    assert again.targets == ("easy", "hard")
