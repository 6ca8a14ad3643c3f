"""The choice of an estimator in a run is reproducible, saved in the checkpoint, and revised if it is inexact."""

import logging

import pytest
import torch
from lightning.pytorch import Callback, seed_everything

from lightning_dga import DynamicGradientAlignment
from tests.helpers.toys import BySample, mixture, trainer


class Rounded(BySample):
    """Its probes' losses have three digits, so that no difference of them is right."""

    def alignment_loss(self, batch):
        losses = super().alignment_loss(batch)
        return losses + (losses.detach().mul(8).round().div(8) - losses.detach())


class Values(Callback):
    def __init__(self, callback):
        self.callback, self.values = callback, []

    def on_train_batch_end(self, *_):
        if self.callback.alignments is not None:
            self.values.append(self.callback.alignments.values.clone())


def fit(estimator, module=BySample, steps=6, load=None, batch_size=12, **arguments):
    seed_everything(0, verbose=False)
    callback = DynamicGradientAlignment(2, estimator=estimator, probe_batch_size=4, **arguments)
    if load is not None:
        callback.load_state_dict(load)
    values, data, model = Values(callback), mixture(batch_size=batch_size), module()
    trainer(callback, values, max_steps=steps).fit(model, datamodule=data)
    return callback, torch.stack(values.values), data.weights, model.state_dict()


@pytest.mark.parametrize("batch_size", [4, 8, 12, 16])
def test_the_same_seed_gives_the_same_bits(batch_size):
    runs = [fit("auto", batch_size=batch_size) for _ in range(3)]
    assert len({run[0].state_dict()["estimator"] for run in runs}) == 1
    for _, values, weights, parameters in runs[1:]:
        assert torch.equal(values, runs[0][1]) and torch.equal(weights, runs[0][2])
        assert all(torch.equal(parameters[name], tensor) for name, tensor in runs[0][3].items() if "layers" in name)


def test_the_log_names_what_can_be_given(caplog):
    with caplog.at_level(logging.INFO):
        callback = fit("auto")[0]
    assert f"estimator='{callback.state_dict()['estimator']}'" in caplog.text


def test_finite_differences_out_of_tolerance_give_way_to_the_reference():
    with pytest.warns(UserWarning, match=r"measured by `estimator='backward'`. finite_difference: no step is both"):
        callback, found, *_ = fit("finite_difference", Rounded, rule="static")
    assert torch.equal(found, fit("backward", Rounded, rule="static")[1])
    assert callback.state_dict()["estimator"] == "backward"
    # a run that is resumed does not try again
    resumed, found, *_ = fit("finite_difference", BySample, steps=8, load=callback.state_dict(), rule="static")
    assert resumed.state_dict()["estimator"] == "backward"


def test_the_step_of_finite_differences_is_in_the_checkpoint(tmp_path):
    callback, *_ = fit("finite_difference", rule="static")
    state = callback.state_dict()
    torch.save(state, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    own = state["estimator_state"]["own"]
    assert own["step"] > 0 and own["measurements"] == 3 and own["refused"] is None
    resumed, *_ = fit("finite_difference", load=state, rule="static")
    assert resumed.state_dict()["estimator_state"]["own"]["measurements"] == 6


@pytest.mark.parametrize("before", ["finite_difference", "backward"])
def test_the_state_of_another_estimator_is_left_alone(before):
    state = fit(before, rule="static")[0].state_dict()
    callback, *_ = fit("auto", load=state, rule="static")
    assert callback.state_dict()["estimator"] == "in_step"


def test_a_checkpoint_without_the_estimators_state_resumes():
    state = fit("auto", rule="static")[0].state_dict()
    del state["estimator_state"]
    # as a version wrote it whose `auto` took them
    state["estimator"] = "finite_difference"
    callback, *_ = fit("auto", load=state, rule="static")
    assert callback.state_dict()["estimator"] == "in_step"
