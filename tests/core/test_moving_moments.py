"""Moving averages of values on unequally many samples, and their standard errors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_dga.core.moving_moments import MovingMoments


def averaged(values, samples, share, measured=None):
    """The moments after measurements, ``[updates, k]``."""
    moments = MovingMoments.zeros(values.shape[1])
    for number, row in enumerate(values):
        own = torch.ones_like(row, dtype=torch.bool) if measured is None else measured[number]
        moments = moments.updated(row, own, share, None if samples is None else samples[number])
    return moments


def unweighted(values, measured, share):
    """Moments and standard errors as they are defined for measurements that count alike."""
    mean, square, weight, weight_square = (torch.zeros(values.shape[1], dtype=torch.float64) for _ in range(4))
    for row, own in zip(values, measured, strict=True):
        new, row = torch.where(own, share, 0.0).double(), torch.where(own, row, 0.0)
        mean, square = (1 - new) * mean + new * row, (1 - new) * square + new * row.square()
        weight, weight_square = (1 - new) * weight + new, (1 - new).square() * weight_square + new.square()
    average, left = mean / weight, weight_square / weight.square()
    variance = (square / weight - average.square()).clamp(min=0)
    return average, torch.where(left < 1, (variance / (1 - left) * left).sqrt(), torch.nan)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.floats(1e-3, 1.0), st.integers(1, 99))
def test_equally_many_samples_change_no_bit(seed, share, count):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    measured = torch.rand(7, 5, generator=generator) < 0.8
    samples = torch.where(measured, count, torch.randint(0, 9, (7, 5), generator=generator))
    average, error = unweighted(values, measured, share)
    for given_samples in (samples, None):
        found = averaged(values, given_samples, share, measured)
        for mine, expected in ((found.average, average), (found.standard_error, error)):
            assert torch.equal(mine.nan_to_num(-1.0), expected.nan_to_num(-1.0))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.floats(1e-3, 1.0))
def test_averages_lie_between_the_values(seed, share):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    samples = torch.randint(1, 200, (9, 4), generator=generator)
    found = averaged(values, samples, share)
    assert (found.average <= values.amax(0) + 1e-12).all() and (found.average >= values.amin(0) - 1e-12).all()
    assert ((found.weight > 0) & (found.weight <= 1 + 1e-12)).all()
    assert (found.standard_error.nan_to_num(0.0) >= 0).all()


def test_without_an_average_the_newest_value_stays():
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).double()
    assert averaged(values, torch.tensor([[1, 8], [1, 8]]), 1.0).average.tolist() == [3.0, 4.0]


def test_a_value_on_few_samples_counts_less():
    start = averaged(torch.zeros(30, 2).double(), None, 0.1)
    moved = start.updated(torch.ones(2).double(), torch.tensor([True, True]), 0.1, torch.tensor([1, 15])).average
    # an eighth and fifteen eighths of the average domain's samples
    assert moved.tolist() == pytest.approx([0.1 / 8 / (0.9 + 0.1 / 8), 1.5 / 8 / (0.9 + 1.5 / 8)], rel=0.05)


def test_a_domain_that_was_not_measured_keeps_its_moments():
    start = averaged(torch.randn(5, 2).double(), torch.randint(1, 9, (5, 2)), 0.1)
    later = start.updated(torch.full((2,), torch.nan), torch.tensor([False, True]), 0.1, torch.tensor([7, 3]))
    for before, after in zip(vars(start).values(), vars(later).values(), strict=True):
        assert before[0] == after[0] and before[1] != after[1]


def test_one_measurement_tells_no_noise_whatever_its_samples():
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)
        samples = torch.randint(1, 100, (1, 6), generator=generator)
        once = averaged(torch.randn(1, 6, generator=generator).double(), samples, 0.3)
        assert once.standard_error.isnan().all()


def drawn(runs=2000, updates=60, deviation=2.0):
    """Means of unequally many samples: ``runs`` domains beside as many that have four samples each time."""
    generator = torch.Generator().manual_seed(0)
    samples = torch.randint(1, 8, (updates, 2 * runs), generator=generator)
    samples[:, runs:] = 4
    noise = deviation * torch.randn(updates, 2 * runs, generator=generator, dtype=torch.float64)
    return noise / samples.sqrt(), samples


def test_weighting_by_samples_leaves_less_noise_than_equal_weights():
    values, samples = drawn()
    half = values.shape[1] // 2
    weighted, equal = (averaged(values, by, 0.1).average[:half].var().item() for by in (samples, None))
    fixed = averaged(values, samples, 0.1).average[half:].var().item()
    assert weighted < 0.85 * equal
    assert weighted == pytest.approx(fixed, rel=0.15), "as if each measurement had the usual number of samples"


def test_standard_errors_are_those_that_repetitions_show():
    values, samples = drawn()
    found = averaged(values, samples, 0.1)
    half = values.shape[1] // 2
    for part in (slice(half), slice(half, None)):
        expected = found.average[part].var().item()
        assert found.standard_error[part].square().mean().item() == pytest.approx(expected, rel=0.1)


def test_few_samples_are_pooled_over_more_measurements():
    generator = torch.Generator().manual_seed(0)
    samples = torch.tensor([1, 8]).repeat_interleave(3000).expand(300, -1)
    values = torch.randn(300, 6000, generator=generator, dtype=torch.float64) / samples.sqrt()
    found = averaged(values, samples, 0.1)
    few, many = found.average[:3000].var().item(), found.average[3000:].var().item()
    assert few == pytest.approx(many, rel=0.5), "each average rests on about as many samples"
    assert averaged(values, None, 0.1).average[:3000].var().item() > 3 * few
