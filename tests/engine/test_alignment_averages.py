from dataclasses import replace

import pytest
import torch

from lightning_dga.core.alignments import Alignments
from lightning_dga.engine.alignment_averages import AlignmentAverages


def measured(values, norm=2.0, counts=None, ages=None):
    values = torch.tensor(values, dtype=torch.float64)
    counts = torch.tensor(counts or [1] * len(values))
    return Alignments(values, counts, values, 0.0, norm, 0, None if ages is None else torch.tensor(ages))


def test_the_average_of_one_is_itself_and_of_many_their_weighted_mean():
    averages = AlignmentAverages().updated(measured([4.0, -8.0]), 0.25)
    torch.testing.assert_close(averages.smoothed(measured([0.0, 0.0])).values, torch.tensor([4.0, -8.0]).double())
    averages = averages.updated(measured([8.0, 8.0]), 0.25)
    # weights 0.75 * 0.25 and 0.25
    expected = torch.tensor([(0.75 * 4 + 8) / 1.75, (0.75 * -8 + 8) / 1.75]).double()
    torch.testing.assert_close(averages.smoothed(measured([0.0, 0.0])).values, expected)


def test_it_is_in_units_of_the_targets_gradient():
    averages = AlignmentAverages().updated(measured([4.0], norm=2.0), 0.5)
    assert averages.smoothed(measured([0.0], norm=20.0)).values.item() == pytest.approx(400.0)


def test_a_domain_that_was_not_measured_keeps_its_average():
    first = AlignmentAverages().updated(measured([4.0, 4.0, 4.0]), 0.5)
    later = first.updated(measured([8.0, 8.0, 8.0], counts=[1, 0, 1], ages=[0, 0, 3]), 0.5)
    assert later.moments.mean.tolist() == [0.5 * 0.5 * 1 + 0.5 * 2, 0.5, 0.5]
    assert later.moments.weight.tolist() == [0.75, 0.5, 0.5]


def test_signal_to_noise_of_normal_measurements():
    torch.manual_seed(0)
    mean, std, ema = torch.tensor([1.0, 0.1, 0.0]).double(), 0.5, 0.1
    found = []
    for _ in range(200):
        averages = AlignmentAverages()
        for _ in range(60):
            noisy = mean + std * torch.randn(3).double()
            averages = averages.updated(measured(noisy.tolist(), norm=1.0), ema)
        found.append(averages.signal_to_noise)
    # the standard error of a moving average of share ema is std * sqrt(ema / (2 - ema))
    error = std * (ema / (2 - ema)) ** 0.5
    median = torch.stack(found).median(0).values
    assert median[0].item() == pytest.approx(1.0 / error, rel=0.1)
    assert median[2].item() < 1.1


def test_there_is_no_noise_to_tell_from_one_measurement():
    assert AlignmentAverages().signal_to_noise is None
    assert AlignmentAverages().updated(measured([4.0]), 0.5).signal_to_noise.isnan().all()


def test_it_can_be_saved(tmp_path):
    averages = AlignmentAverages().updated(measured([4.0, 2.0]), 0.5)
    torch.save(averages.state_dict(), tmp_path / "state.pt")
    again = AlignmentAverages.from_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert again.moments.mean.tolist() == averages.moments.mean.tolist()


def test_a_measurement_on_few_samples_counts_less():
    start = AlignmentAverages().updated(measured([0.0, 0.0], counts=[4, 4]), 0.5)
    later = start.updated(measured([4.0, 4.0], counts=[1, 7]), 0.5)
    few, many = later.moments.average.tolist()
    assert few < 0.5 < many


def test_what_the_rule_sees_has_the_noise_of_the_average():
    first, second = measured([4.0, 8.0], counts=[4, 4]), measured([8.0, 4.0], counts=[2, 2])
    first = replace(first, sample_variances=torch.tensor([9.0, 9.0]).double())
    averages = AlignmentAverages().updated(first, 0.5)
    assert averages.smoothed(first).sample_variances.tolist() == [9.0, 9.0]
    averages = averages.updated(second, 0.5)
    errors = averages.moments.standard_error * second.target_norm**2
    torch.testing.assert_close(averages.smoothed(second).standard_errors, errors)
