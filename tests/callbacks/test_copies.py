"""Copies and pickles of the callback have its settings and progress, but no reference to a run or a model."""

import copy
import pickle
import threading

import pytest
import torch
from lightning.pytorch import Callback

from lightning_dga import DynamicGradientAlignment
from lightning_dga.alignment import Backward
from lightning_dga.reweighting import DGA
from tests.helpers.toys import BySample, mixture, trainer

COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda value: pickle.loads(pickle.dumps(value)), "copy": copy.copy}


@pytest.fixture(params=COPIES, name="copied")
def _copied(request):
    return COPIES[request.param]


class CopiesAt(Callback):
    """Copies another callback in every hook of a training batch, with its watch open."""

    def __init__(self, callback, copied):
        self.callback, self.copied, self.copies = callback, copied, []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.copies.append(self.copied(self.callback))

    def on_before_backward(self, trainer, pl_module, loss):
        self.copies.append(self.copied(self.callback))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.copies.append(self.copied(self.callback))


class Model(BySample):
    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Linear(300, 300)


def weights_of_a_run(callback, *others):
    torch.manual_seed(0)
    data = mixture(batch_size=12)
    trainer(callback, *others).fit(Model(), datamodule=data)
    return data.weights


@pytest.mark.parametrize("estimator", ["auto", "in_step", "batched", "finite_difference"])
def test_a_copy_runs_as_the_original(copied, estimator):
    callback = DynamicGradientAlignment(2, estimator=estimator, probe_batch_size=2)
    made = copied(callback)
    expected = weights_of_a_run(callback)
    torch.testing.assert_close(weights_of_a_run(made), expected)
    assert made.alignments is not None and made is not callback


@pytest.mark.parametrize("estimator", ["auto", "in_step", "backward"])
def test_copies_made_during_a_run_start_clean(copied, estimator):
    callback = DynamicGradientAlignment(2, estimator=estimator, probe_batch_size=2)
    copies = CopiesAt(callback, copied)
    expected = weights_of_a_run(DynamicGradientAlignment(2, estimator=estimator, probe_batch_size=2))
    torch.testing.assert_close(weights_of_a_run(callback, copies), expected)
    assert len(copies.copies) == 18
    for made in copies.copies[5::6]:
        made.should_update(1)
        assert weights_of_a_run(made).isfinite().all()


def test_a_copy_after_a_run_has_its_progress_and_not_its_model(copied):
    callback = DynamicGradientAlignment(2, probe_batch_size=2)
    weights_of_a_run(callback)
    made = copied(callback)
    torch.testing.assert_close(made.alignments.values, callback.alignments.values, rtol=0, atol=0)
    assert made.seconds == callback.seconds
    torch.testing.assert_close(made.state_dict()["weights"], callback.state_dict()["weights"])
    assert "log" not in vars(made), "a method of the module, which would bring the model and the trainer along"


def test_a_pickle_is_small():
    """It holds no model: neither the estimator's layers nor what Lightning puts on a callback."""
    for estimator in ("auto", "batched", "in_step"):
        callback = DynamicGradientAlignment(2, estimator=estimator, parameters="layers", probe_batch_size=2)
        weights_of_a_run(callback)
        assert len(pickle.dumps(callback)) < 50_000


def test_threads_are_none_of_it(copied):
    callback = DynamicGradientAlignment(timeout=30)
    callback._loop._watchdog = threading.Lock()
    assert copied(callback)._loop._watchdog is None


def test_its_own_objects_are_kept(copied):
    callback = DynamicGradientAlignment(rule=DGA(step_size=2.0), estimator=Backward(), every_n_steps=7)
    made = copied(callback)
    assert made.rule == DGA(step_size=2.0) and made.every_n_steps == 7
    assert repr(made) == repr(callback)


def test_it_shows_its_settings_and_progress():
    callback = DynamicGradientAlignment(2, estimator="backward", prior={f"domain{i}": 1 for i in range(3)})
    assert repr(callback).startswith("DynamicGradientAlignment(every_n_steps=2, rule=DGA(step_size=3.0, ")
    assert repr(callback).endswith("estimator='backward', probe_batch_size=4; updates=0)")
    weights_of_a_run(callback)
    assert "; updates=3, seconds=" in repr(callback)
    many = DynamicGradientAlignment(prior={f"domain{i}": 1 for i in range(10_000)})
    assert len(repr(many)) < 400
