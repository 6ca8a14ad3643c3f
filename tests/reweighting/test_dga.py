"""The default rule."""

import math
from dataclasses import replace

import pytest
import torch

from lightning_dga.reweighting import DGA
from tests.helpers.rules import NAMES, UNIFORM, WEIGHTS, exposure, measured, run

PLENTY = {"sizes": (10**6,) * 3}


def noisy(mean, updates, noise=0.1, seed=0, norm=1.0):
    generator = torch.Generator().manual_seed(seed)
    draws = noise * torch.randn(updates, len(mean), generator=generator).double()
    return [measured((torch.tensor(mean) + draw).tolist(), norm) for draw in draws]


def test_it_equals_the_step_by_hand():
    # products 2 and 4 of a target gradient of norm 2; in units of it 1 and 2, then 3 and 2 cut to the usual norm, 2
    rule = DGA(step_size=1.5, ema=0.5, enough=1.0, epochs=math.inf)
    first, second = measured([2.0, 4.0, 0.0], 2.0), measured([6.0, 4.0, 0.0], 2.0)
    *_, last = run(rule, [first, second], UNIFORM, draws=0)
    # weights 1/4 and 1/2 of the two updates
    mean = [(0.25 * 1 + 0.5 * 2) / 0.75, (0.25 * 2 + 0.5 * 2) / 0.75, 0.0]
    square = [(0.25 * 1 + 0.5 * 4) / 0.75, (0.25 * 4 + 0.5 * 4) / 0.75, 0.0]
    left = (0.0625 + 0.25) / 0.75**2
    noise = [(s - m**2) / (1 - left) * left for m, s in zip(mean, square, strict=True)]
    advantage = [m - sum(mean) / 3 for m in mean]
    signal = 1 - sum(noise) / sum(a**2 for a in advantage)
    # the usual norm is 2, and it would be enough
    worth = (max(advantage) / (1.0 * 2.0)) ** 2
    height = worth * signal * (1.5 + math.log(3))
    q = [math.exp(height * a / max(advantage)) for a in advantage]
    assert last.tolist() == pytest.approx([x / sum(q) for x in q])


def test_it_starts_with_the_prior_and_keeps_it_while_it_is_right():
    history = run(DGA(prior={"a": 8, "b": 2, "c": 0}), noisy([1.0, 0.0, 0.0], 30), UNIFORM, **PLENTY)
    for weights in history:
        torch.testing.assert_close(weights, torch.tensor([0.8, 0.2, 0.0]).double(), atol=0.06, rtol=0)


def test_it_drops_a_prior_that_is_wrong():
    history = run(DGA(prior={"a": 0, "b": 1, "c": 0}), noisy([1.0, 0.0, 0.0], 30), UNIFORM, **PLENTY)
    assert history[0].tolist() == [0, 1, 0]
    assert history[6][0] > 0.6 and history[-1][0] > 0.9


def test_it_finds_the_best_domain_without_a_prior():
    history = run(DGA(), noisy([1.0, 0.0, 0.0], 30), UNIFORM, **PLENTY)
    assert history[1].tolist() == pytest.approx([1 / 3] * 3), "nothing is known of the noise yet"
    assert history[6][0] > 0.6 and history[-1][0] > 0.9


def test_an_advantage_that_is_small_beside_the_targets_gradient_moves_it_little():
    history = run(DGA(), noisy([0.03, 0.0, 0.0], 40, 0.001), UNIFORM, **PLENTY)
    assert history[-1].max() < 0.4
    prior = run(DGA(prior=[0, 0, 1]), noisy([0.03, 0.0, 0.0], 40, 0.001), UNIFORM, **PLENTY)
    assert prior[-1].max() < 0.4


def test_a_prior_that_is_half_right_gives_way():
    history = run(DGA(prior=[0, 1, 0]), noisy([0.9, 0.5, 0.0], 40), UNIFORM, **PLENTY)
    assert history[-1][0] > 0.8


def test_noise_does_not_move_it():
    last = torch.stack([run(DGA(), noisy([0.0] * 3, 40, 1.0, seed), UNIFORM, **PLENTY)[-1] for seed in range(20)])
    found = torch.stack([run(DGA(), noisy([1.0, 0, 0], 40, 1.0, s), UNIFORM, **PLENTY)[-1] for s in range(20)])
    assert last.amax(1).median() < 0.6
    assert found[:, 0].median() > 0.8


def test_it_comes_back_when_the_alignment_fades():
    history = run(DGA(), noisy([1.0, 0.0, 0.0], 40) + noisy([0.0, 0.0, 0.0], 60), UNIFORM, **PLENTY)
    assert history[40][0] > 0.9 and history[-1][0] < 0.6


def test_it_is_not_locked_by_one_exploding_probe():
    history = run(DGA(), [*noisy([0.5, 0.1, 0.1], 3), measured([0.1, 1e6, 0.1]), *noisy([0.5, 0.1, 0.1], 40)], UNIFORM)
    assert history[-1][0] > history[-1][1]


def test_it_is_not_blinded_by_an_exploding_target():
    quiet = noisy([0.5, 0.1, 0.1], 20)
    # the products grow with the target's gradient, and say no more than the others
    loud = [measured((1e3 * one.values).tolist(), 1e3) if i % 5 == 0 else one for i, one in enumerate(quiet)]
    assert run(DGA(), loud, UNIFORM, **PLENTY)[-1][0] > 0.8


def test_it_repeats_no_domain_too_often():
    rule = DGA(epochs=15, prior={"a": 1, "b": 0, "c": 0})
    history = run(rule, noisy([1.0, 0.0, 0.0], 50), UNIFORM, planned=3000.0)
    seen = 60 * torch.stack(history[:-1]).sum(0)
    # 15 passes more over a than over the others: 5 of all, and 15 of a
    torch.testing.assert_close(seen, torch.tensor([2000.0, 500.0, 500.0]).double(), rtol=0.02, atol=0)


def test_what_a_wrong_start_drew_counts():
    rule = DGA(epochs=15, prior={"a": 0, "b": 1, "c": 0})
    history = run(rule, noisy([1.0, 0.0, 0.0], 50), UNIFORM, planned=3000.0)
    seen = 60 * torch.stack(history[:-1]).sum(0)
    assert seen[0] > 1500 and seen[1] < 1000


def test_the_weights_of_the_data_module_are_where_it_starts_without_a_prior():
    history = run(DGA(), [measured([0.0, 0.0, 0.0])], WEIGHTS, **PLENTY)
    torch.testing.assert_close(history[0], WEIGHTS)


def test_a_prior_on_domains_that_are_not_drawn_is_refused():
    with pytest.raises(ValueError, match="`prior` is zero on every domain that has a weight"):
        run(DGA(prior=[1, 0, 0]), [], torch.tensor([0.0, 0.5, 0.5]).double())


def test_only_relative_numbers_of_samples_matter():
    updates = noisy([1.0, 0.2, 0.0], 10)
    four, seven = ([replace(one, counts=torch.full((3,), n)) for one in updates] for n in (4, 7))
    for one, other in zip(run(DGA(), four, UNIFORM), run(DGA(), seven, UNIFORM), strict=True):
        assert torch.equal(one, other)


def test_domains_of_few_samples_are_averaged_over_more_updates():
    moved = []
    for counts in ([4, 4, 4], [1, 4, 4]):
        weights, state = DGA().start(NAMES, UNIFORM, exposure())
        for one in [*noisy([1.0, 0.0, 0.0], 20, 0.01), *noisy([0.0, 0.0, 0.0], 5, 0.01)]:
            weights, state = DGA().update(weights, replace(one, counts=torch.tensor(counts)), state, exposure())
        moved.append(state["mean"][0] / state["weight"][0])
    assert moved[0] < 0.7 < moved[1] < 0.9


def test_states_of_before_samples_were_counted_go_on():
    first, *rest = noisy([1.0, 0.2, 0.0], 6)
    weights, state = DGA().update(UNIFORM, first, DGA().start(NAMES, UNIFORM, exposure())[1], exposure())
    older = {name: value for name, value in state.items() if name != "inverse_samples"}
    for one in rest:
        now, state = DGA().update(weights, one, state, exposure())
        then, older = DGA().update(weights, one, older, exposure())
        assert torch.equal(now, then)
