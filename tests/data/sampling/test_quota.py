"""Quota sampling: every prefix of the stream is within one sample of the ideal, for every domain."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_dga.core.weights import as_weights
from lightning_dga.data.sampling.composition import Composition


def sequence(composition, samples, size):
    draws = []
    for _ in range(samples // size):
        draws.append(composition.draw(size))
        composition.deliver(draws[-1])
    return np.concatenate([draw.domains for draw in draws])


def weights_of(values):
    return as_weights(list(values), [str(i) for i in range(len(values))])


def worst(domains, weights):
    """The largest distance of any domain from its ideal, over all prefixes."""
    counts = np.cumsum(domains[:, None] == np.arange(len(weights)), axis=0)
    return np.abs(counts - np.arange(1, len(domains) + 1)[:, None] * weights.numpy()).max()


positive = st.lists(st.floats(0, 1), min_size=2, max_size=12).filter(lambda values: max(values) > 1e-3)


@settings(max_examples=150, deadline=None)
@given(values=positive, seed=st.integers(0, 99))
def test_every_domain_is_within_one_sample_of_its_ideal_at_every_prefix(values, seed):
    weights = weights_of(values)
    domains = sequence(Composition(weights, seed, sampling="quota"), 600, 8)
    assert worst(domains, weights) < 1 + 1e-9
    assert not (weights.numpy()[domains] == 0).any()


@pytest.mark.parametrize("k", [100, 3000])
def test_it_holds_for_many_domains_of_very_different_weights(k):
    weights = as_weights(torch.randn(k, dtype=torch.float64).mul(2).exp(), list(map(str, range(k))))
    domains = sequence(Composition(weights, sampling="quota"), 8000, 80)
    counts, furthest = np.zeros(k), 0.0
    for number, domain in enumerate(domains, start=1):
        counts[domain] += 1
        if number % 37 == 0:
            furthest = max(furthest, np.abs(counts - number * weights.numpy()).max())
    assert furthest < 1 + 1e-9


def test_giving_each_slot_to_the_largest_deficit_would_not_do():
    """Shows why the alternative is not used."""
    weights = weights_of([0.31, 0.31, 0.31, *[0.07 / 40] * 40]).numpy()
    deficit, furthest = np.zeros(len(weights)), 0.0
    for _ in range(2000):
        deficit += weights
        deficit[deficit.argmax()] -= 1
        furthest = max(furthest, np.abs(deficit).max())
    assert furthest > 1
    assert worst(sequence(Composition(torch.from_numpy(weights), sampling="quota"), 2000, 8), torch.tensor(weights)) < 1


@settings(max_examples=25, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(1, 12), positive.map(lambda v: (v * 6)[:6])), min_size=1, max_size=6),
    size=st.sampled_from([2, 8, 32]),
)
def test_it_does_not_depend_on_how_the_stream_is_cut_into_batches(changes, size):
    def run(batch):
        composition, parts = Composition(weights_of([1, 2, 3, 4, 5, 6]), sampling="quota"), []
        for batches, values in changes:
            parts.append(sequence(composition, batches * 64, batch))
            composition.set_weights(weights_of(values) if max(values) > 0 else weights_of([1] * 6))
        return np.concatenate(parts)

    assert np.array_equal(run(64), run(size))


def earliest_deadline_first(weights, slots):
    """Slot by slot, as Tijdeman defines it: counts of the domains after each slot."""
    counts, weights = np.zeros((slots + 1, len(weights)), dtype=np.int64), weights.numpy()
    for slot in range(slots):
        drawn = counts[slot]
        with np.errstate(divide="ignore"):
            deadline = np.where((slot + 1) * weights > drawn, np.ceil((drawn + 1) / weights), np.inf)
        counts[slot + 1] = drawn + (np.arange(len(weights)) == deadline.argmin())
    return counts


@pytest.mark.parametrize("position", [300, 700])
def test_a_checkpoint_of_plain_earliest_deadline_first_goes_on_within_one_sample(position):
    """Where every slot was given to the earliest deadline, checkpoints hold the counts that this leads to."""
    weights = weights_of(np.random.default_rng(0).exponential(size=30))
    composition = Composition(weights, sampling="quota")
    counts = earliest_deadline_first(weights, position)[-1]
    composition.load_state_dict(composition.state_dict() | {"position": position, "counts": torch.from_numpy(counts)})
    domains = sequence(composition, 3000, 10)
    counts = counts + np.cumsum(domains[:, None] == np.arange(30), axis=0)
    ideal = np.arange(position + 1, position + 3001)[:, None] * weights.numpy()
    assert np.abs(counts - ideal).max() < 1 + 1e-9


@settings(max_examples=30, deadline=None)
@given(values=positive, stop=st.integers(1, 1199))
def test_within_a_block_it_goes_on_from_the_counts_alone(values, stop):
    whole = Composition(weights_of(values), sampling="quota").draw(1200).domains
    first = Composition(weights_of(values), sampling="quota")
    first.deliver(first.draw(stop))
    resumed = Composition(weights_of(values), sampling="quota")
    resumed.load_state_dict(first.state_dict())
    assert np.array_equal(resumed.draw(1200 - stop).domains, whole[stop:])


def test_what_is_owed_is_carried_over_so_that_rare_domains_have_their_turn():
    """Weights that change long before a rare domain is due must not keep it from ever being drawn."""
    k, composition = 200, Composition(weights_of([1] * 200), sampling="quota")
    for step in range(80):
        sequence(composition, 10, 10)
        composition.set_weights(weights_of(1 + 0.01 * torch.rand(k, generator=torch.Generator().manual_seed(step))))
    counts = composition.counts()
    assert counts.sum() == 800
    assert counts.min() >= 3 and counts.max() <= 5


def test_under_changing_weights_it_stays_closer_to_the_ideal_than_independent_draws():
    def distance(sampling):
        composition, ideal = Composition(weights_of([1] * 20), sampling=sampling), torch.zeros(20)
        generator, furthest = torch.Generator().manual_seed(0), 0.0
        for _ in range(100):
            weights = weights_of(torch.rand(20, generator=generator))
            composition.set_weights(weights)
            sequence(composition, 64, 16)
            ideal = ideal + 64 * weights
            furthest = max(furthest, (composition.counts() - ideal).abs().max().item())
        return furthest

    assert distance("quota") < 2 < 10 < distance("multinomial")


def test_its_state_holds_three_numbers_for_each_domain():
    k = 1000
    composition = Composition(weights_of([1] * k), sampling="quota")
    for _ in range(5):
        sequence(composition, 100, 10)
        composition.set_weights(weights_of(torch.rand(k)))
    state = composition.state_dict()
    tensors = [state["counts"], *(v for s in state["segments"] for v in s.values() if isinstance(v, torch.Tensor))]
    assert sum(tensor.numel() for tensor in tensors) == 3 * k


def test_a_state_of_another_sampling_is_refused():
    with pytest.raises(ValueError, match="`sampling='quota'`"):
        Composition(weights_of([1, 1])).load_state_dict(Composition(weights_of([1, 1]), sampling="quota").state_dict())
    with pytest.raises(ValueError, match="must be one of 'multinomial', 'quota'"):
        Composition(weights_of([1, 1]), sampling="random")
