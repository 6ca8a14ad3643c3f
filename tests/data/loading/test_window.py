"""A checkpoint between two optimizer steps: batches whose gradients it does not contain are trained on again."""

import lightning as L
import pytest
import torch

from lightning_dga import MixtureDataModule
from tests.helpers.toys import Plain, Points, Stream, trainer

ACCUMULATE = 4


class Interrupted(L.Callback):
    """Records the samples trained on; saves after some batch, or fails in it and saves as an error handler does."""

    def __init__(self, file=None, at=None, fails=False):
        self.file, self.at, self.fails = file, at, fails
        self.rows = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.rows.append((batch_idx, batch[2].tolist()))
        if self.fails and len(self.rows) == self.at:
            raise KeyError("power cut")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if len(self.rows) == self.at:
            trainer.save_checkpoint(self.file)
            trainer.should_stop = True
            # as if the process were killed here
            trainer.fit_loop.epoch_loop.max_steps = 0

    def on_exception(self, trainer, pl_module, exception):
        trainer.save_checkpoint(self.file)


def data(kind, **arguments):
    return MixtureDataModule(
        {"a": kind(0, 30), "b": Points(1, 30)}, Points(0, 4), batch_size=2, batches_per_epoch=10, **arguments
    )


def run(callback, kind=Points, file=None, workers=0):
    torch.manual_seed(0)
    model = Plain()
    trainer(callback, max_steps=7, accumulate_grad_batches=ACCUMULATE).fit(
        model, datamodule=data(kind, num_workers=workers), ckpt_path=file
    )
    return callback.rows, model.state_dict()


# in the first window, at the end of one, in the second epoch, and in its last window, which is short
@pytest.mark.parametrize(("kind", "at"), [(Points, 2), (Points, 8), (Stream, 15), (Points, 19)])
@pytest.mark.parametrize("fails", [False, True], ids=["saved", "failed"])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, kind, at, fails):
    whole, parameters = run(Interrupted(), kind)
    first = Interrupted(tmp_path / "run.ckpt", at, fails)
    try:
        run(first, kind)
    except KeyError:
        assert fails
    rows, resumed = run(Interrupted(), kind, tmp_path / "run.ckpt")
    trained = at - fails
    start = trained // 10 * 10 + trained % 10 // ACCUMULATE * ACCUMULATE
    assert rows == whole[start:]
    torch.testing.assert_close(resumed, parameters, rtol=0, atol=0)


def test_it_costs_nothing_without_accumulation():
    module = data(Points)
    trainer(max_steps=2).fit(Plain(), datamodule=module)
    assert module._window._state is None
