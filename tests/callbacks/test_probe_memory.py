"""Probes that do not fit into memory are measured in smaller batches, with a warning."""

import pytest
import torch

from lightning_dga import DynamicGradientAlignment
from tests.helpers.processes import together
from tests.helpers.toys import Plain, mixture, trainer

MESSAGE = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"


class Tight(Plain):
    """Runs out of memory with more than a few probe samples per batch."""

    most = 3

    def alignment_loss(self, batch):
        if len(batch[0]) > self.most:
            raise RuntimeError(MESSAGE)
        return ((self.layers(batch[0]) - batch[1]) ** 2).squeeze(1)


def fit(module, estimator, load=None, steps=4):
    torch.manual_seed(0)
    callback = DynamicGradientAlignment(2, estimator=estimator, probe_batch_size=6, rule="static")
    if load is not None:
        callback.load_state_dict(load)
    fitted = trainer(callback, max_steps=steps)
    fitted.fit(module(), datamodule=mixture(batch_size=16, target_batch_size=12))
    return callback


class Roomy(Tight):
    most = 1000


@pytest.mark.parametrize("estimator", ["auto", "backward", "batched", "finite_difference", "in_step"])
def test_probes_are_halved_until_they_fit(estimator):
    with pytest.warns(UserWarning, match="probes are measured in batches of 2 samples at most"):
        found = fit(Tight, estimator)
    expected = fit(Roomy, estimator)
    torch.testing.assert_close(found.alignments.values, expected.alignments.values, rtol=1e-3, atol=1e-4)
    assert torch.equal(found.alignments.counts, expected.alignments.counts)


def test_a_resumed_run_need_not_find_out_again(recwarn):
    state = fit(Tight, "backward").state_dict()
    recwarn.clear()
    fit(Tight, "backward", load=state, steps=6)
    assert not [warning for warning in recwarn if "does not fit into memory" in str(warning.message)]


def test_a_probe_of_one_sample_that_does_not_fit_ends_the_run():
    class Full(Tight):
        most = 0

    with pytest.raises(RuntimeError, match="can't allocate memory"), pytest.warns(UserWarning, match="at most"):
        fit(Full, "backward")


def one_process_lacks_memory(estimator, failing_call):
    """Rank 1 has no memory for one of the probes of an update."""

    class Once(Tight):
        most, calls = 1000, 0

        def alignment_loss(self, batch):
            if self.trainer.global_step == 2 and self.trainer.global_rank == 1:
                Once.calls += 1
                if Once.calls == failing_call:
                    raise torch.OutOfMemoryError("CUDA out of memory")
            return super().alignment_loss(batch)

    torch.manual_seed(0)
    callback = DynamicGradientAlignment(2, estimator=estimator, probe_batch_size=6, rule="static")
    fitted = trainer(callback, max_steps=4, strategy="ddp", devices=2)
    fitted.fit(Once(), datamodule=mixture(batch_size=8, target_batch_size=12))
    return callback.alignments.values, callback.state_dict()["estimator_state"]["most"]


@pytest.mark.parametrize("failing_call", [1, 2])
@pytest.mark.parametrize("estimator", ["backward", "batched"])
def test_what_one_process_lacks_memory_for_is_halved_on_all(estimator, failing_call):
    (first, most), (second, other_most) = together(one_process_lacks_memory, 2, estimator, failing_call)
    assert most == other_most == 4
    assert torch.equal(first, second)
