"""What a measurement holds: its noise, what it carries over, and its state."""

import pytest
import torch

from lightning_dga.core.alignments import Alignments


def measured(values, counts, variances=None, **several):
    values = torch.tensor(values, dtype=torch.float64)
    variances = None if variances is None else torch.tensor(variances, dtype=torch.float64)
    return Alignments(values, torch.tensor(counts), values, 1.0, 2.0, 3, sample_variances=variances, **several)


def test_standard_errors_fall_with_the_samples():
    found = measured([1.0, 2.0, 3.0], [4, 16, 1], [9.0, 9.0, torch.nan])
    assert found.standard_errors[:2].tolist() == [1.5, 0.75]
    assert found.standard_errors[2].isnan()
    assert measured([1.0], [4]).standard_errors.isnan().all(), "unless told, the noise is not known"


def test_domains_that_were_not_measured_keep_their_variance():
    earlier = measured([1.0, 2.0], [4, 4], [9.0, 16.0])
    now = measured([5.0, torch.nan], [2, 0], [1.0, torch.nan]).carrying(earlier)
    assert now.sample_variances.tolist() == [1.0, 16.0]
    assert now.standard_errors.tolist() == [0.5**0.5, 2.0]


def test_the_variance_with_several_targets_is_bounded():
    one, other = measured([1.0, 1.0], [4, 4], [9.0, 0.0]), measured([3.0, 1.0], [4, 4], [1.0, 4.0])
    both = Alignments.of_targets({"one": one, "other": other})
    # standard deviations 3 and 1, 0 and 2
    assert both.sample_variances.tolist() == [4.0, 1.0]
    same = Alignments.of_targets({"one": one, "other": one})
    assert same.sample_variances.tolist() == pytest.approx([9.0, 0.0]), "it is attained with targets that agree"
    assert Alignments.of_targets({"one": one}).sample_variances is one.sample_variances


def test_it_is_saved_and_older_states_are_read(tmp_path):
    found = measured([1.0, 2.0], [4, 4], [9.0, torch.nan])
    torch.save(found.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    again = Alignments.from_state_dict(state)
    torch.testing.assert_close(again.sample_variances, found.sample_variances, equal_nan=True, rtol=0, atol=0)
    del state["sample_variances"]
    older = Alignments.from_state_dict(state)
    assert older.sample_variances.isnan().all() and older.values.tolist() == [1.0, 2.0]
