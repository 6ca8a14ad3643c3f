"""``every_n_steps="auto"``: as many measurements as a share of the training's work allows."""

import logging

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_dga import DynamicGradientAlignment
from tests.helpers.toys import BySample, Plain, StopAt, mixture, trainer


class Counting(Plain):
    """Counts the samples that training and measurements pass through the model."""

    def loss(self, batch):
        # a probe runs in evaluation mode
        COUNTS[self.layers.training] += len(batch[0])
        return super().loss(batch)


COUNTS = {True: 0, False: 0}


def fit(callback, module, steps, data=None, **settings):
    COUNTS.update({True: 0, False: 0})
    data = data or mixture(batch_size=16)
    trainer(callback, *settings.pop("callbacks", ()), max_steps=steps, **settings).fit(module, datamodule=data)
    return data


@pytest.mark.parametrize("max_overhead", [0.05, 0.2])
def test_measurements_cost_what_they_may(max_overhead, caplog):
    callback = DynamicGradientAlignment("auto", estimator="backward", max_overhead=max_overhead, min_updates=0)
    with caplog.at_level(logging.INFO):
        fit(callback, Counting(), 300)
    # the check that there is a loss in evaluation mode passes one target batch
    share = (COUNTS[False] - 6) / COUNTS[True]
    assert max_overhead * 0.8 < share <= max_overhead
    assert f"about {max_overhead:.2%} more work" in caplog.text
    assert "times, more often at first, by `backward`" in caplog.text


def test_a_run_that_is_too_short_for_the_budget_is_measured_all_the_same(caplog):
    callback = DynamicGradientAlignment(estimator="backward")
    with caplog.at_level(logging.INFO):
        data = fit(callback, Plain(), 100)
    assert callback.state_dict()["updates"] == 10 and data.weights_version > 5
    assert "Aligning 3 domains 10 times, more often at first," in caplog.text
    assert "a longer run costs less, down to `max_overhead` 2.00%" in caplog.text


def test_steps_are_watched_and_the_weights_move():
    callback = DynamicGradientAlignment("auto", max_overhead=0.2)
    data = fit(callback, BySample(), 300, mixture(batch_size=16))
    assert "(in_step)" in repr(callback)
    assert data.weights.argmax() == 1


def test_a_domain_that_is_not_drawn_is_measured_in_rotation():
    callback = DynamicGradientAlignment("auto", rule="static", max_overhead=0.5, probe_batch_size=2)
    data = mixture(batch_size=8, weights=[1, 1, 0])
    fit(callback, BySample(), 60, data)
    assert callback.alignments.measured[2] and callback.alignments.ages[2] <= 1


def test_a_resumed_run_keeps_the_schedule(tmp_path):
    def callback():
        return DynamicGradientAlignment("auto", estimator="backward", max_overhead=0.3, min_updates=0)

    def checkpoints():
        return ModelCheckpoint(tmp_path, filename="half", every_n_train_steps=30, save_top_k=-1)

    torch.manual_seed(0)
    whole = callback()
    data = fit(whole, Plain(), 60)
    torch.manual_seed(0)
    fit(callback(), Plain(), 60, callbacks=[checkpoints(), StopAt(30)], enable_checkpointing=True)
    rest, again = callback(), mixture(batch_size=16)
    trainer(rest, max_steps=60).fit(Plain(), datamodule=again, ckpt_path=tmp_path / "half.ckpt")
    assert torch.equal(data.weights, again.weights)
    assert data.weights_version == again.weights_version > 1
    assert whole.state_dict()["schedule"] == rest.state_dict()["schedule"]


def test_a_second_fit_has_a_schedule_of_its_own():
    callback = DynamicGradientAlignment("auto", estimator="backward", max_overhead=0.3, min_updates=0)
    for steps in (60, 20):
        fit(callback, Plain(), steps, mixture(batch_size=16))
        assert callback.state_dict()["schedule"]["length"] == steps


def test_too_small_a_budget_is_told():
    with pytest.warns(UserWarning, match="Raise `max_overhead`, or give `every_n_steps`"):
        fit(DynamicGradientAlignment("auto", max_overhead=0.001, min_updates=0), BySample(), 20)


@pytest.mark.parametrize(
    "given", [{"every_n_steps": "often"}, {"max_overhead": 0}, {"max_overhead": 2}, {"min_updates": -1}]
)
def test_what_is_no_budget_is_refused(given):
    with pytest.raises(ValueError, match=f"`{next(iter(given))}`"):
        DynamicGradientAlignment(**given)
