"""Subclasses in the usual shape of a LightningDataModule: data sets made in ``prepare_data`` and ``setup``."""

import lightning as L
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_dga import DynamicGradientAlignment, MixtureDataModule
from tests.helpers.toys import Plain, Points, trainer


class InSetup(MixtureDataModule):
    """Assigns data that it creates in `setup`."""

    def __init__(self, batch_size=4, names=("a", "b"), weights=None):
        super().__init__(batch_size=batch_size)
        self.save_hyperparameters()
        self.first = weights
        self.prepared, self.stages = 0, []

    def prepare_data(self):
        self.prepared += 1

    def setup(self, stage):
        self.stages.append(stage)
        self.domains = {name: Points(number, 20) for number, name in enumerate(self.hparams.names)}
        self.target = Points(0, 8)
        self.val = [Points(0, 4), Points(1, 4)]
        if self.first is not None:
            self.weights = self.first


class InitInSetup(MixtureDataModule):
    """Calls the constructor in `setup`, where the data is available."""

    def __init__(self, batch_size=4):
        L.LightningDataModule.__init__(self)
        self.size = batch_size

    def setup(self, stage):
        domains = {name: Points(number, 20) for number, name in enumerate("ab")}
        MixtureDataModule.__init__(self, domains, Points(0, 8), batch_size=self.size)


class Seen(L.Callback):
    def __init__(self):
        self.rows = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.rows.append(batch[2].tolist())


def fit(data, steps, *callbacks):
    seen = Seen()
    trainer(*callbacks, seen, max_steps=steps).fit(Plain(), datamodule=data)
    return seen.rows


@pytest.mark.parametrize("shape", [InSetup, InitInSetup])
def test_it_trains_and_goes_on_when_fitted_again(shape):
    plain = MixtureDataModule({name: Points(i, 20) for i, name in enumerate("ab")}, Points(0, 8), batch_size=4)
    whole, data = fit(plain, 9), shape()
    assert fit(data, 4) + fit(data, 5) == whole
    assert data.samples_seen.sum() == 9 * 4


@pytest.mark.parametrize("shape", [InSetup, InitInSetup])
def test_the_callback_moves_its_weights_and_a_second_fit_keeps_them(shape):
    data = shape()
    fit(data, 6, DynamicGradientAlignment(every_n_steps=2, estimator="backward", step_size=3.0))
    moved = data.weights
    assert abs(moved[0] - 0.5) > 0.01
    data.setup("fit")
    assert torch.equal(data.weights, moved)


def test_weights_given_in_setup_are_those_to_start_with():
    data = InSetup(weights={"a": 3, "b": 1})
    fit(data, 2)
    assert data.weights.tolist() == [0.75, 0.25]
    data.set_weights([0.5, 0.5])
    fit(data, 2)
    assert data.weights.tolist() == [0.5, 0.5]


def test_every_stage_sets_it_up_and_hyperparameters_are_kept(tmp_path):
    data, model = InSetup(batch_size=5), Plain()
    model.validation_step = lambda batch, index, dataloader_idx: None
    run = trainer(max_steps=3, enable_checkpointing=False)
    run.fit(model, datamodule=data)
    run.save_checkpoint(tmp_path / "run.ckpt")
    run.validate(model, datamodule=data, verbose=False)
    assert data.stages == ["fit", "validate"] and data.prepared == 2
    assert len(run.val_dataloaders) == 2
    again = InSetup.load_from_checkpoint(tmp_path / "run.ckpt", weights_only=False)
    assert again.batch_size == 5
    again.setup("fit")
    assert again.samples_seen.tolist() == data.samples_seen.tolist()
    assert data.samples_seen.sum() == 15


def test_a_run_in_this_shape_resumes_exactly(tmp_path):
    whole, first = fit(InSetup(), 8), InSetup()
    run = trainer(max_steps=3)
    run.fit(Plain(), datamodule=first)
    run.save_checkpoint(tmp_path / "run.ckpt")
    seen = Seen()
    trainer(seen, max_steps=8).fit(Plain(), datamodule=InSetup(), ckpt_path=tmp_path / "run.ckpt")
    assert seen.rows == whole[3:]


class Kept(Seen):
    """Each process's rows, in a file of its own."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_train_end(self, trainer, pl_module):
        torch.save(self.rows, self.folder / f"{trainer.global_rank}.pt")


@pytest.mark.parametrize("shape", [InSetup, InitInSetup])
def test_processes_share_its_batches(tmp_path, shape):
    whole = fit(shape(batch_size=4), 5)
    run = trainer(Kept(tmp_path), max_steps=5, strategy="ddp_fork", devices=2)
    run.fit(Plain(), datamodule=shape(batch_size=2))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert [one + two for one, two in zip(first, second, strict=True)] == whole


@pytest.mark.parametrize("missing", ["domains", "target"])
def test_what_is_missing_is_named_with_the_remedy(missing):
    class Forgets(InSetup):
        def setup(self, stage):
            given = {"domains": {"a": Points(0, 9)}, "target": Points(0, 9)}
            del given[missing]
            for name, value in given.items():
                setattr(self, name, value)

    callback = DynamicGradientAlignment(every_n_steps=1, estimator="backward")
    with pytest.raises(MisconfigurationException, match=rf"Forgets has no `{missing}`: give .*`self.{missing}` in"):
        fit(Forgets(), 2, callback)


def test_before_setup_it_can_be_shown_and_saved():
    data = InSetup()
    assert "no domains yet" in repr(data)
    assert data.state_dict() == {}
    assert data.samples_seen.sum() == 0
    assert data.domains is None and data.target is None and data.val is None


def test_domains_that_change_between_two_fits_keep_their_place_by_name():
    data = MixtureDataModule({"a": Points(0, 30), "b": Points(1, 30)}, Points(0, 8), batch_size=4)
    fit(data, 3)
    before = dict(zip("ab", data.samples_seen.tolist(), strict=True))
    with pytest.warns(UserWarning, match="domain 'c' is new and begin.*domain 'a' is gone"):
        data.domains = {"c": Points(2, 30), "b": Points(1, 30)}
    assert data.samples_seen.tolist() == [0, before["b"]]
    assert data.weights.tolist() == [0.5, 0.5]
    fit(data, 2)
