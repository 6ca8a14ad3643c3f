"""An estimator that becomes inexact during a run: `auto` falls back to the reference, others say why they refuse."""

import logging

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from lightning_dga import DynamicGradientAlignment
from lightning_dga.alignment import Auto, Backward, EstimatorRefusal
from tests.helpers.toys import BySample, mixture, trainer


class ByHand(nn.Module):
    """Uses its layer's weight outside of the layer as well, but only in training mode, where no plan is made."""

    def __init__(self):
        super().__init__()
        self.inner, self.odd = nn.Linear(4, 8), True

    def forward(self, x):
        return self.inner(x) + 2.0 * x @ self.inner.weight.T if self.training and self.odd else self.inner(x)


class ByKeyword(ByHand):
    def forward(self, x):
        return self.inner(input=x) if self.training and self.odd else self.inner(x)


CASES = [(ByHand, "outside of the layers"), (ByKeyword, "called in another way")]


class WithFirst(BySample):
    """A model whose first layer is another."""

    def __init__(self, first=None):
        super().__init__()
        if first is not None:
            self.layers[0] = first()


class Late(Callback):
    """Leaves the layer unchanged at first."""

    def on_train_start(self, trainer, pl_module):
        pl_module.layers[0].odd = False

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        pl_module.layers[0].odd = trainer.global_step >= 4


class Losses(Callback):
    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())


def fit(*callbacks, first=None, batch_size=12, **settings):
    torch.manual_seed(0)
    losses = Losses()
    trainer(*callbacks, losses, **settings).fit(WithFirst(first), datamodule=mixture(batch_size=batch_size))
    return losses.losses


@pytest.mark.parametrize(("first", "message"), CASES)
def test_a_use_that_only_training_has_is_found_out(first, message):
    callback = DynamicGradientAlignment(2, estimator="in_step", rule="static")
    with pytest.raises(MisconfigurationException, match=rf"in_step: .*{message}.*Use `estimator='backward'`"):
        fit(callback, first=first)


@pytest.mark.parametrize(("first", "message"), CASES)
def test_auto_goes_on_with_the_reference(first, message, caplog):
    callback = DynamicGradientAlignment(1, rule="static", probe_batch_size=1)
    with caplog.at_level(logging.INFO):
        losses = fit(Late(), callback, first=first, max_steps=14)
    assert "From now on alignments are measured by `estimator='backward'`; `in_step` refused: " in caplog.text
    assert message in caplog.text
    assert callback.state_dict()["estimator"] == "backward"
    assert callback.alignments.step == 14
    assert losses == fit(Late(), first=first, max_steps=14)


def test_a_resumed_check_changes_nothing():
    """Which steps are checked depends on when a process was started; what is measured must not."""
    checked, unchecked = (DynamicGradientAlignment(1, estimator="in_step", rule="static") for _ in range(2))
    fit(checked)
    unchecked._loop.measurer.estimator._watches = 1
    fit(unchecked)
    assert torch.equal(checked.alignments.values, unchecked.alignments.values)


class Fickle:
    """Agrees with the reference until it has measured some times."""

    def __init__(self):
        self.measured = 0

    def measure(self, measurement):
        self.measured += 1
        if self.measured > 5:
            raise EstimatorRefusal("fickle: enough")
        return Backward().measure(measurement)


def test_a_probing_estimator_that_refuses_later_is_replaced():
    auto = Auto({"fickle": Fickle})
    callback = DynamicGradientAlignment(1, estimator=auto, rule="static", probe_batch_size=30)
    # as a resumed run that had chosen it
    callback.load_state_dict({**callback.state_dict(), "weights": mixture().weights, "estimator": "fickle"})
    fit(callback, max_steps=12)
    assert auto.name == "backward"
    assert auto.reasons["fickle"] == "fickle: enough"
    assert callback.alignments.step == 12
