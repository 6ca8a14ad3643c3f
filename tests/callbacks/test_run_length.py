"""The length of a run according to the Trainer's limits and callbacks equals the number of samples that it draws."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, GradientAccumulationScheduler, ModelCheckpoint, Timer

from lightning_dga import MixtureDataModule
from lightning_dga.callbacks.dynamic_gradient_alignment import _planned_samples
from lightning_dga.callbacks.run_length import run_length
from tests.helpers.toys import Plain, Points, StopAt, Stream, mixture, trainer

BATCHES = 7


class Note(L.Callback):
    """Requests the length of the run at the start and the end of every batch."""

    def __init__(self):
        self.planned, self.lengths = [], []

    def on_train_batch_start(self, trainer, *_):
        self.planned.append(_planned_samples(trainer))

    def on_train_batch_end(self, trainer, *_):
        self.planned.append(_planned_samples(trainer))
        self.lengths.append(run_length(trainer, trainer.datamodule, every_n_steps=2))


class ByHand(Plain):
    """Optimizes manually: each of ``optimizers`` steps in every batch whose number it divides."""

    def __init__(self, every=(1, 1)):
        super().__init__()
        self.automatic_optimization = False
        self.every = every

    def training_step(self, batch, index):
        self.loss(batch).backward()
        optimizers = self.optimizers() if len(self.every) > 1 else [self.optimizers()]
        for every, optimizer in zip(self.every, optimizers, strict=True):
            if index % every == 0:
                optimizer.step()
        self.zero_grad()

    def configure_optimizers(self):
        return [torch.optim.SGD([one], 0.01) for one in list(self.parameters())[: len(self.every)]]


def fit(*callbacks, module=None, data=None, **limits):
    note = Note()
    data = data or mixture(batches_per_epoch=BATCHES)
    settings = {"max_steps": -1, **limits}
    trainer(*callbacks, note, **settings).fit(module or Plain(), datamodule=data)
    return note, float(data.samples_seen.sum())


LIMITS = {
    "steps": {"max_steps": 10},
    "epochs": {"max_epochs": 3},
    "both, steps first": {"max_steps": 10, "max_epochs": 3},
    "both, epochs first": {"max_steps": 100, "max_epochs": 2},
    "accumulation that does not divide an epoch": {"max_steps": 9, "accumulate_grad_batches": 3},
    "accumulation over whole epochs": {"max_steps": 6, "accumulate_grad_batches": 3},
    "accumulation of more than an epoch": {"max_steps": 3, "accumulate_grad_batches": 20},
    "accumulation and epochs": {"max_epochs": 2, "accumulate_grad_batches": 4},
    "a number of batches": {"max_epochs": 4, "limit_train_batches": 3},
    "more batches than there are": {"max_epochs": 2, "limit_train_batches": 100},
    "a share of the batches": {"max_epochs": 3, "limit_train_batches": 0.5},
    "a number of batches and steps": {"max_steps": 5, "limit_train_batches": 2, "accumulate_grad_batches": 2},
    "overfit": {"max_epochs": 5, "overfit_batches": 2},
    "overfit a share": {"max_epochs": 5, "overfit_batches": 0.3},
    "fast": {"fast_dev_run": True},
    "fast, several": {"fast_dev_run": 3},
    "loaders that are made again": {"max_epochs": 3, "reload_dataloaders_every_n_epochs": 1},
    "validation in between": {"max_epochs": 2, "val_check_interval": 0.25},
    "a least number of steps": {"max_epochs": 1, "min_steps": 5},
    "barebones": {"max_epochs": 2, "barebones": True, "enable_checkpointing": None, "logger": None,
                  "enable_progress_bar": None, "enable_model_summary": None},
}  # fmt: skip


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
def test_planned_samples_are_those_that_the_run_draws(limits):
    note, drew = fit(**limits)
    assert set(note.planned) == {drew}


@pytest.mark.parametrize("limits", [{"max_steps": 11}, {"max_epochs": 6}], ids=["steps", "epochs"])
def test_accumulation_that_changes_with_the_epoch_is_planned_for(limits):
    note, drew = fit(GradientAccumulationScheduler({1: 2, 3: 5}), **limits)
    assert set(note.planned) == {drew}


@pytest.mark.parametrize(("every", "at_first"), [((1, 1), True), ((1,), True), ((1, 1, 1), True), ((1, 3), False)])
def test_every_step_of_every_optimizer_counts_under_manual_optimization(every, at_first):
    steps = 12
    note, drew = fit(module=ByHand(every), max_steps=steps)
    # before the first batch each optimizer is taken to step once in a batch
    assert (note.planned[0] == drew) == at_first
    assert note.planned[-1] == pytest.approx(drew, abs=4)


def test_limits_are_totals_so_that_a_second_fit_goes_on():
    note, data = Note(), mixture(batches_per_epoch=BATCHES)
    same = trainer(note, max_steps=-1, max_epochs=1)
    same.fit(Plain(), datamodule=data)
    same.fit_loop.max_epochs = 3
    note.planned.clear()
    same.fit(Plain(), datamodule=data)
    assert set(note.planned) == {float(data.samples_seen.sum())}
    # another Trainer counts from the start, and what was seen before counts as seen
    note, drew = fit(data=data, max_steps=5)
    assert set(note.planned) == {drew}


@pytest.mark.parametrize("limits", [{"max_steps": 18}, {"max_epochs": 3}], ids=["steps", "epochs"])
def test_a_resumed_run_is_as_long_as_one_that_was_not_interrupted(tmp_path, limits):
    saving = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=5, save_top_k=-1, filename="{step}")
    fit(saving, StopAt(10), **limits, enable_checkpointing=True)
    note, data = Note(), mixture(batches_per_epoch=BATCHES)
    resumed = trainer(note, **{"max_steps": -1, **limits})
    resumed.fit(Plain(), datamodule=data, ckpt_path=tmp_path / "step=10.ckpt")
    assert set(note.planned) == {float(data.samples_seen.sum())}


NO_LIMIT = {
    "none given": {"max_epochs": None},
    "none": {"max_epochs": -1},
    "as Lightning sets it": {"max_epochs": 1000},
}


@pytest.mark.parametrize("limits", NO_LIMIT.values(), ids=NO_LIMIT)
def test_a_limit_that_nobody_set_is_no_plan(limits):
    note, _ = fit(StopAt(4), **limits)
    assert set(note.planned) == {None}


EARLY = {
    "early stopping": ((EarlyStopping("train/loss"),), {"max_epochs": 1}),
    "a timer": ((Timer("00:01:00:00"),), {"max_epochs": 1}),
    "max_time": ((), {"max_epochs": 1, "max_time": "00:01:00:00"}),
}


@pytest.mark.parametrize(("callbacks", "limits"), EARLY.values(), ids=EARLY)
def test_what_may_end_a_run_before_its_limit_is_known(callbacks, limits):
    note, drew = fit(*callbacks, **limits)
    assert all(length.may_end_early and length.planned == drew for length in note.lengths)
    note, _ = fit(max_epochs=1)
    assert not any(length.may_end_early for length in note.lengths)


def test_the_least_length_is_that_of_the_least_steps_and_epochs():
    note, _ = fit(max_epochs=3, min_steps=9)
    assert {length.least for length in note.lengths[:9]} == {9 * 4}
    note, _ = fit(max_epochs=3, min_epochs=2)
    assert {length.least for length in note.lengths[: 2 * BATCHES]} == {2 * BATCHES * 4}


def test_the_samples_of_a_period_are_told():
    note, _ = fit(max_epochs=1, accumulate_grad_batches=3)
    assert {length.period for length in note.lengths} == {2 * 3 * 4}
    # a batch in which two optimizers step is one training step
    note, _ = fit(max_steps=4, module=ByHand())
    assert {length.period for length in note.lengths} == {2 * 4}


def test_an_epoch_holds_every_sample_once_and_of_streams_a_thousand_batches():
    note, drew = fit(data=mixture(k=2, size=9, batch_size=4), max_epochs=1)
    # 9 and 10 samples in batches of 4
    assert set(note.planned) == {drew} == {20.0}
    streams = MixtureDataModule({"a": Stream(0, 30), "b": Points(1, 30)}, Points(1, 12), batch_size=4)
    note, _ = fit(StopAt(2), data=streams, max_epochs=2)
    assert set(note.planned) == {2 * 1000 * 4.0}
