"""The process that calls fit has the result of a run that spawned processes did."""

import copy
import os
import pickle
from pathlib import Path

import pytest
import torch

from lightning_dga import DynamicGradientAlignment
from lightning_dga.handover import Handover
from tests.helpers.toys import Plain, Points, mixture, trainer


def run(data, callback, **arguments):
    torch.manual_seed(0)
    fit = trainer(callback, max_steps=6, **arguments)
    fit.fit(Plain(), datamodule=data)
    return fit


def aligner():
    return DynamicGradientAlignment(2, step_size=3.0, estimator="backward", probe_batch_size=2)


# forked as in a notebook, where `ddp_notebook` is the same for an interactive interpreter; spawned, objects are pickled
@pytest.mark.parametrize("strategy", ["ddp_fork", pytest.param("ddp_spawn", marks=pytest.mark.slow)])
def test_the_mixture_of_a_run_in_other_processes_comes_back(strategy):
    alone, expected = mixture(batch_size=8), aligner()
    run(alone, expected)
    data, callback = mixture(batch_size=4), aligner()
    fit = run(data, callback, strategy=strategy, devices=2)
    torch.testing.assert_close(data.weights, alone.weights, rtol=1e-4, atol=1e-6)
    assert data.weights.max() - data.weights.min() > 0.02, "the mixture must move for this to show anything"
    assert data.weights_version == alone.weights_version
    assert data.samples_seen.tolist() == alone.samples_seen.tolist()
    torch.testing.assert_close(callback.alignments.values, expected.alignments.values, rtol=1e-3, atol=1e-4)
    assert "updates=3" in repr(callback)
    assert fit.callback_metrics["dga/weight/domain1"].item() == pytest.approx(data.weights[1].item(), rel=1e-5)
    assert not data._handover._file.exists()


def test_a_second_run_goes_on_where_the_first_one_ended():
    whole, of_whole = mixture(batch_size=8), aligner()
    for _ in range(2):
        run(whole, of_whole)
    data, callback = mixture(batch_size=8), aligner()
    run(data, callback, strategy="ddp_fork", devices=1)
    run(data, callback)
    assert data.samples_seen.tolist() == whole.samples_seen.tolist()
    torch.testing.assert_close(data.weights, whole.weights, rtol=0, atol=0)


def test_a_run_in_this_process_leaves_no_file():
    data, callback = mixture(), aligner()
    run(data, callback)
    assert not data._handover._file.exists() and not callback._handover._file.exists()


class _Zero:
    is_global_zero = True


def in_a_child(function):
    child = os.fork()
    if child == 0:
        function()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_a_state_is_taken_once_and_by_the_object_alone():
    way = Handover()
    others = copy.deepcopy(way), pickle.loads(pickle.dumps(way))
    assert way.take() is None
    in_a_child(lambda: way.give(_Zero, lambda: {"weights": torch.ones(2)}))
    assert [other.take() for other in others] == [None, None]
    assert way.take()["weights"].tolist() == [1, 1]
    assert way.take() is None


def test_a_state_that_nobody_takes_is_removed():
    ways = [Handover()]
    in_a_child(lambda: ways[0].give(_Zero, lambda: {}))
    file = Path(ways[0]._file)
    assert file.exists()
    ways.clear()
    assert not file.exists()


def test_domains_that_are_made_in_setup_take_their_state_up():
    class Late(type(mixture())):
        def setup(self, stage):
            self.domains = {f"domain{i}": Points(i, 20) for i in range(3)}
            self.target = Points(1, 9)

    data = Late(batch_size=4)
    run(data, aligner(), strategy="ddp_fork", devices=2)
    data.setup("fit")
    assert data.samples_seen.sum() == 6 * 8 and data.weights_version == 3
