"""The Trainer's arguments that affect training data, and the tuner."""

import lightning as L
import pytest
import torch
from lightning.pytorch.tuner import Tuner
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_dga import DynamicGradientAlignment, MixtureDataModule
from tests.helpers.toys import Plain, Points, Stream, trainer


class Rows(L.Callback):
    """The samples of each epoch."""

    def __init__(self):
        self.epochs = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.epochs.append([])

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.epochs[-1].append(batch[2].tolist())
        batch[2].zero_()  # as a step that works in place does


def data(kind=Points, **arguments):
    return MixtureDataModule(
        {"a": kind(0, 30), "b": Points(1, 30)}, Points(0, 8), **{"batch_size": 2, "batches_per_epoch": 10, **arguments}
    )


def fit(module, *callbacks, **arguments):
    rows = Rows()
    run = trainer(*callbacks, rows, **{"max_steps": -1, "max_epochs": 3, **arguments})
    run.fit(Plain(), datamodule=module)
    return rows.epochs, run


@pytest.mark.parametrize("kind", [Points, Stream])
@pytest.mark.parametrize(("wanted", "batches"), [(3, 3), (0.4, 4), (1.0, 10)])
def test_overfit_batches_repeats_its_batches(tmp_path, kind, wanted, batches):
    module = data(kind, num_workers=0)
    epochs, run = fit(module, DynamicGradientAlignment(every_n_steps=2, estimator="backward"), overfit_batches=wanted)
    assert [len(epoch) for epoch in epochs] == [batches] * 3
    assert epochs[0] == epochs[1] == epochs[2]
    counts = [sum(domain == i for batch in sum(epochs, []) for domain, _ in batch) for i in range(2)]
    assert module.samples_seen.tolist() == counts
    run.save_checkpoint(tmp_path / "run.ckpt")
    again = data(kind)
    again.load_state_dict(torch.load(tmp_path / "run.ckpt", weights_only=False)["MixtureDataModule"])
    assert again.samples_seen.tolist() == counts


def test_overfit_batches_repeats_what_workers_read():
    assert fit(data(num_workers=2), overfit_batches=3)[0] == fit(data(), overfit_batches=3)[0]


def test_an_epoch_is_what_limit_train_batches_leaves_of_it_and_the_stream_goes_on():
    whole, _ = fit(data(), max_epochs=2)
    cut, _ = fit(data(), limit_train_batches=4, max_epochs=5)
    assert [len(epoch) for epoch in cut] == [4] * 5
    assert sum(cut, []) == sum(whole, [])
    assert fit(data(), reload_dataloaders_every_n_epochs=1, max_epochs=2)[0] == whole
    assert fit(data(), fast_dev_run=2)[0] == [whole[0][:2]]


@pytest.mark.parametrize("what", ["rate", "batch size"])
def test_the_tuner_leaves_the_stream_where_it_was(tmp_path, what):
    module, model = data(batches_per_epoch=40), Plain()
    run = trainer(max_steps=4, default_root_dir=tmp_path)
    if what == "rate":
        Tuner(run).lr_find(model, datamodule=module, num_training=5, update_attr=False)
        expected = data(batches_per_epoch=40)
    else:
        Tuner(run).scale_batch_size(model, datamodule=module, max_trials=2, steps_per_trial=2, init_val=2)
        expected = data(batch_size=module.batch_size, batches_per_epoch=40)
        assert module.batch_size > 2
    assert module.samples_seen.sum() == 0
    assert fit(module, max_steps=4)[0] == fit(expected, max_steps=4)[0]


def test_pure_batches_follow_a_batch_size_that_was_tuned():
    module = data(pure_batches=True)
    module.batch_size = 5
    for batch in fit(module, max_epochs=1)[0][0]:
        assert len({domain for domain, _ in batch}) == 1
    module.batch_size = 3
    with pytest.raises(ValueError, match="give the same `pure_batches` and `batch_size`"):
        module.train_dataloader()


class FromIterator(Plain):
    """The step that takes its batches itself."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def training_step(self, dataloader_iter):
        batch, _, _ = next(dataloader_iter)
        self.rows.append(batch[2].tolist())
        return self.loss(batch)


def test_a_step_that_takes_an_iterator_trains():
    model, module = FromIterator(), data()
    trainer(max_steps=12).fit(model, datamodule=module)
    assert model.rows == sum(fit(data(), max_steps=12)[0], [])
    assert module.samples_seen.sum() == 24


def test_with_the_callback_such_a_step_needs_a_loss_and_an_estimator_that_probes():
    class Measured(FromIterator):
        def alignment_loss(self, batch):
            return self.loss(batch)

    def run(model, estimator):
        callback = DynamicGradientAlignment(every_n_steps=2, estimator=estimator)
        trainer(callback, max_steps=4).fit(model, datamodule=data())
        return callback

    with pytest.raises(MisconfigurationException, match=r"`dataloader_iter`.* Define `alignment_loss\(batch\)`"):
        run(FromIterator(), "backward")
    for estimator in ("auto", "in_step"):
        with pytest.raises(MisconfigurationException, match=r"takes a `dataloader_iter`.*`estimator='batched'`"):
            run(Measured(), estimator)
    assert run(Measured(), "backward").alignments.step == 4
