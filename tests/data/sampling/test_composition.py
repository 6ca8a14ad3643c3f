import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_dga.core.weights import as_weights
from lightning_dga.data.sampling.composition import Composition

NAMES = ("a", "b", "c")


def simplex(*weights):
    return as_weights(list(weights), NAMES[: len(weights)])


def take(composition, batches, size=8):
    """Draws and hands over, one by one, as a loader without workers does."""
    out = []
    for _ in range(batches):
        draw = composition.draw(size)
        composition.deliver(draw)
        out += list(zip(draw.domains.tolist(), draw.positions.tolist(), strict=True))
    return out


def test_a_sample_does_not_depend_on_how_the_stream_is_cut_into_batches():
    weights = simplex(1, 2, 3)
    assert take(Composition(weights), 12, size=6) == take(Composition(weights), 8, size=9)


def test_positions_count_the_samples_of_each_domain():
    samples = take(Composition(simplex(1, 1, 1)), 20)
    for domain in range(3):
        positions = [p for d, p in samples if d == domain]
        assert positions == list(range(len(positions)))


def test_shares_follow_the_weights():
    weights = simplex(0.5, 0.3, 0.2)
    composition = Composition(weights)
    take(composition, 100, size=100)
    counts = composition.counts().double()
    statistic = ((counts - 10_000 * weights) ** 2 / (10_000 * weights)).sum()
    assert statistic < 13.8  # the 99.9 % quantile of chi-square with 2 degrees of freedom


def test_a_domain_of_weight_zero_is_never_drawn():
    composition = Composition(simplex(0, 1, 0))
    take(composition, 50, size=100)
    assert composition.counts().tolist() == [0, 5000, 0]


def test_new_weights_take_effect_with_the_next_sample_whatever_was_drawn_ahead():
    ahead, plain = Composition(simplex(1, 1, 1)), Composition(simplex(1, 1, 1))
    first = ahead.draw(8)
    queued = [ahead.draw(8) for _ in range(4)]
    ahead.deliver(first)
    ahead.set_weights(simplex(1, 0, 0))
    take(plain, 1)
    plain.set_weights(simplex(1, 0, 0))

    assert not any(ahead.is_pending(draw) for draw in queued)
    assert take(ahead, 3) == take(plain, 3)
    assert torch.equal(ahead.counts(), plain.counts())


def test_a_lag_lets_queued_work_stand_and_recalls_what_lies_beyond():
    composition = Composition(simplex(1, 1, 1), lag=16)
    first = composition.draw(8)
    queued = [composition.draw(8) for _ in range(4)]
    composition.deliver(first)
    composition.set_weights(simplex(0, 0, 1))
    assert [composition.is_pending(draw) for draw in queued] == [True, True, False, False]
    for draw in queued[:2]:
        composition.deliver(draw)
    assert {domain for domain, _ in take(composition, 2)} == {2}


def test_the_first_weights_are_in_force_from_the_first_sample_on_even_with_a_lag():
    composition = Composition(simplex(1, 1, 1), lag=100)
    composition.set_weights(simplex(0, 1, 0))
    assert {domain for domain, _ in take(composition, 2)} == {1}


def test_a_recalled_draw_cannot_be_handed_over():
    composition = Composition(simplex(1, 1))
    draw = composition.draw(4)
    composition.recall_pending()
    with pytest.raises(RuntimeError, match="recalled"):
        composition.deliver(draw)


@pytest.mark.parametrize("sampling", ["multinomial", "quota"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_resuming_anywhere_continues_the_sequence(sampling, data):
    """Weights change on the way, work is queued ahead by any amount, the batch in training may be done or not."""
    lag = data.draw(st.sampled_from([0, 8, 24]))
    changes = data.draw(
        st.dictionaries(st.integers(1, 12), st.lists(st.floats(0.01, 1), min_size=3, max_size=3), max_size=4)
    )
    stop = data.draw(st.integers(1, 12))
    completed = data.draw(st.booleans())

    def run(composition, first, last, ahead):
        out, queue = [], []
        for step in range(first, last):
            while len(queue) <= ahead:
                queue.append(composition.draw(8))
            queue = [draw for draw in queue if composition.is_pending(draw)] or [composition.draw(8)]
            draw = queue.pop(0)
            composition.deliver(draw)
            out.append(list(zip(draw.domains.tolist(), draw.positions.tolist(), strict=True)))
            if step + 1 in changes and step + 1 < last:
                composition.set_weights(as_weights(changes[step + 1], NAMES))
        return out

    whole = run(Composition(simplex(1, 2, 3), lag=lag, sampling=sampling), 0, 14, ahead=0)
    first = Composition(simplex(1, 2, 3), lag=lag, sampling=sampling)
    before = run(first, 0, stop, ahead=data.draw(st.integers(0, 4)))
    resumed = Composition(simplex(1, 1, 1), seed=9, lag=lag, sampling=sampling)
    resumed.load_state_dict(first.state_dict(completed=completed))
    # the step that was not completed is taken again, and sets its weights afterwards as it would have
    if completed and stop in changes:
        resumed.set_weights(as_weights(changes[stop], NAMES))
    again = stop if completed else stop - 1
    after = run(resumed, again, 14, ahead=data.draw(st.integers(0, 4)))
    assert before[:again] + after == whole


@pytest.mark.parametrize("sampling", ["multinomial", "quota"])
def test_a_signal_may_take_the_state_between_any_two_lines(sampling):
    """In the middle of any operation, a signal handler gets the state of a moment before or after it."""
    states = []

    def between_lines(frame, event, argument):
        if "lightning_dga" in frame.f_code.co_filename and frame.f_code.co_name not in ("state_dict", "counts"):
            states.append(composition.state_dict())
        return between_lines

    composition = Composition(simplex(1, 2, 3), lag=6, sampling=sampling)
    whole = take(Composition(simplex(1, 2, 3), sampling=sampling), 4)
    ahead = [composition.draw(8) for _ in range(3)]
    sys.settrace(between_lines)
    try:
        composition.deliver(ahead[0])
        composition.draw(8)
        composition.recall_pending()
        composition.draw(8)
    finally:
        sys.settrace(None)
    assert len(states) > 50
    assert {state["position"] for state in states} == {0, 8}
    for state in states:
        resumed = Composition(simplex(1, 1, 1), sampling=sampling)
        resumed.load_state_dict(state)
        assert take(resumed, 2) == whole[state["position"] :][:16]


def test_the_state_does_not_grow_with_the_run():
    composition = Composition(simplex(1, 1, 1), lag=40)
    sizes, in_memory = [], []
    for step in range(60):
        take(composition, 1)
        if step % 2:
            composition.set_weights(as_weights(torch.rand(3), NAMES))
        sizes.append(len(composition.state_dict()["segments"]))
        in_memory.append(len(composition._segments))
    assert max(sizes) == max(sizes[:10])
    assert max(in_memory) == max(in_memory[:10])


def test_a_state_of_another_number_of_domains_is_refused():
    with pytest.raises(ValueError, match="3 domains"):
        Composition(simplex(1, 1)).load_state_dict(Composition(simplex(1, 1, 1)).state_dict())


def test_the_random_numbers_can_be_found_from_the_middle():
    from lightning_dga.data.sampling.multinomial import uniform

    whole = uniform(3, 0, 100)
    for start in (1, 2, 3, 4, 37):
        assert np.array_equal(whole[start:], uniform(3, start, 100 - start))
    assert not np.array_equal(whole, uniform(4, 0, 100))


def test_runs_share_a_domain_in_the_weights_proportions_wherever_the_stream_is_cut():
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    whole = Composition(weights, seed=3, run_length=4).draw(4_000).domains
    runs = whole.reshape(-1, 4)
    assert (runs == runs[:, :1]).all()
    shares = np.bincount(runs[:, 0], minlength=3) / len(runs)
    np.testing.assert_allclose(shares, weights, atol=0.05)
    cut = Composition(weights, seed=3, run_length=4)
    parts = [cut.draw(size).domains for size in (3, 10, 1, 86)]
    assert np.concatenate(parts).tolist() == whole[:100].tolist()


def test_runs_of_another_length_are_not_gone_on_with():
    weights = torch.tensor([0.5, 0.5], dtype=torch.float64)
    state = Composition(weights, run_length=4).state_dict()
    with pytest.raises(ValueError, match=r"runs of 4 samples of one domain, this mixture has 2.*`pure_batches`"):
        Composition(weights, run_length=2).load_state_dict(state)


def test_quotas_are_not_kept_in_runs():
    with pytest.raises(ValueError, match="`pure_batches` draws one domain for a whole batch"):
        Composition(torch.tensor([0.5, 0.5], dtype=torch.float64), sampling="quota", run_length=2)
