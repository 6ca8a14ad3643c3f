import warnings

import pytest
import torch

from lightning_dga import DynamicGradientAlignment
from lightning_dga.core.data_budget import DataBudget
from lightning_dga.engine import advice
from lightning_dga.reweighting import DGA, Importance, PaperDGA, Static
from tests.helpers.toys import Plain, mixture, trainer


def subjects(found):
    return [one.subject for one in found]


@pytest.mark.parametrize(
    ("rule", "updates", "said"),
    [
        (DGA(), 4, ["updates"]),
        (DGA(), 5, []),
        (DGA(), None, []),
        (PaperDGA(ema=0.05), 100, ["lag"]),
        (PaperDGA(ema=0.05), 140, []),
        (PaperDGA(ema=0.05), 2, ["updates"]),
        (Static(), 1, []),
    ],
)
def test_a_mixture_that_cannot_move_in_time(rule, updates, said):
    assert subjects(advice.before_training(rule, 10, updates)) == said


@pytest.mark.parametrize(("limits", "said"), [({"max_steps": 40}, True), ({"max_steps": 60}, False),
                                              ({"max_steps": -1, "max_epochs": 2}, True)])  # fmt: skip
def test_a_run_that_is_too_short_for_its_period_is_told_so(limits, said):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        callback = DynamicGradientAlignment(10, estimator="backward")
        trainer(callback, **limits).fit(Plain(), datamodule=mixture(batches_per_epoch=15))
    assert any("Lower `every_n_steps`" in str(one.message) for one in caught) == said


@pytest.mark.parametrize(
    ("weights", "seen", "moving", "said"),
    [
        ([0.995, 0.005], [200, 0], True, ["one-hot"]),
        ([0.995, 0.005], [200, 0], False, []),
        ([0.995, 0.005], [50, 0], True, []),
        ([0.5, 0.5], [100, 3100], True, ["epochs"]),
        ([0.5, 0.5], [100, 100], True, []),
    ],
)
def test_a_mixture_that_repeats_too_much(weights, seen, moving, said):
    exposure = DataBudget(torch.tensor(seen).double(), torch.tensor([100.0, 100.0]).double(), None)
    found = list(advice.in_training(["a", "b"], torch.tensor(weights).double(), exposure, moving=moving))
    assert subjects(found) == said
    assert all(("'a'" if "one-hot" in said else "'b'") in one.message for one in found)


@pytest.mark.parametrize(
    ("noise", "updates", "said"), [([1.5, 0.3], 20, ["noise"]), ([1.5, 2.5], 20, []), ([1.5], 19, [])]
)
def test_alignments_below_their_noise(noise, updates, said):
    assert subjects(advice.on_noise(torch.tensor(noise), updates)) == said


def test_a_user_is_told_once():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        callback = DynamicGradientAlignment(1, estimator="backward", rule=Importance([1, 0, 0]))
        trainer(callback, max_steps=100).fit(Plain(), datamodule=mixture(size=5, k=3, batch_size=4))
    said = [str(one.message) for one in caught]
    assert sum("has 100.0% of the mixture" in one for one in said) == 0, "importance sampling means what it does"
    assert sum("is probably memorised" in one for one in said) == 1
