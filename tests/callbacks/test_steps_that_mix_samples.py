"""Steps that shuffle, mix, drop or weight samples: `in_step` refuses, and `auto` chooses another estimator."""

import logging

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_dga import DynamicGradientAlignment
from tests.helpers.reference import alignments as reference
from tests.helpers.toys import BySample, Points, mixture, trainer


class Changes(BySample):
    """A step that does something to its batch in training mode."""

    def training_step(self, batch, batch_idx):
        return self.alignment_loss(self.changed(batch) if self.training else batch).mean()

    def changed(self, batch):
        return batch


class Shuffles(Changes):
    def changed(self, batch):
        order = torch.randperm(len(batch[0]))
        return [part[order] for part in batch]


class Reverses(Changes):
    """Draws no random numbers, and does it as late as in the middle of the run."""

    late = False

    def changed(self, batch):
        at_rest = self.late and self.trainer.global_step < 4
        return batch if at_rest else [part.flip(0) for part in batch]


class Mixup(Changes):
    def changed(self, batch):
        return [0.6 * part + 0.4 * part.roll(1, 0) if part.is_floating_point() else part for part in batch]


class Repeats(Changes):
    """Drops some samples, and fills up with others."""

    def changed(self, batch):
        good = (batch[0][:, 0] > 0).nonzero()[:, 0]
        index = good[torch.arange(len(batch[0])) % len(good)] if len(good) else torch.arange(len(batch[0]))
        return [part[index] for part in batch]


class Hardest(Changes):
    """Takes the gradient of half of the samples."""

    def training_step(self, batch, batch_idx):
        losses = self.alignment_loss(batch)
        return losses.topk(max(len(losses) // 2, 1)).values.mean()


class Tokens(Changes):
    """The mean over tokens, of which samples have different numbers."""

    def tokens(self, batch):
        return 1 + (batch[2][:, 1] % 4) * 2

    def training_step(self, batch, batch_idx):
        tokens = self.tokens(batch)
        return (self.alignment_loss(batch) * tokens).sum() / tokens.sum()


STEPS = [Shuffles, Reverses, Mixup, Repeats, Hardest, Tokens]
DATA = {"batch_size": 12}


def fit(module, *callbacks, **settings):
    trainer(*callbacks, **settings).fit(module, datamodule=mixture(**DATA))
    return module


@pytest.mark.parametrize("kind", STEPS)
def test_in_step_refuses_it(kind):
    callback = DynamicGradientAlignment(2, estimator="in_step", rule="static")
    with pytest.raises(
        MisconfigurationException, match=r"in_step: in a training step .* reorders, mixes, drops or weighs"
    ):
        fit(kind(), callback)


@pytest.mark.parametrize("kind", STEPS)
def test_auto_is_exact_with_another_one(kind, caplog):
    torch.manual_seed(0)
    callback = DynamicGradientAlignment(2, rule="static", probe_batch_size=4)
    with caplog.at_level(logging.INFO):
        module = fit(kind(), callback, max_steps=2)
    assert "reorders, mixes, drops or weighs" in caplog.text
    found = callback.alignments
    expected = reference(module, BySample.alignment_loss, mixture(**DATA), 0, 4, 3)
    assert ((found.values - expected).abs().max() / expected.abs().max()).item() < 3e-3


def test_a_step_that_begins_to_do_it_later_is_found_out(caplog):
    module, callback = Reverses(), DynamicGradientAlignment(1, rule="static", probe_batch_size=4)
    module.late = True
    with caplog.at_level(logging.INFO):
        fit(module, callback, max_steps=14)
    assert "measured by `estimator='in_step'`" in caplog.text
    assert "`in_step` refused: in_step: in a training step" in caplog.text
    assert callback.state_dict()["estimator"] == "backward"


def test_a_step_that_does_nothing_of_it_is_watched_with_its_dropout(caplog):
    with caplog.at_level(logging.INFO):
        fit(BySample(dropout=0.5), DynamicGradientAlignment(1, rule="static", probe_batch_size=4), max_steps=14)
    assert "measured by `estimator='in_step'`" in caplog.text and "refused" not in caplog.text


class Hooks(Callback):
    """Counts hooks that watches leave on the model; placed before the callback that watches."""

    def __init__(self):
        self.found = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.found.append(hooks(pl_module))

    def on_validation_start(self, trainer, pl_module):
        self.found.append(hooks(pl_module))


def hooks(module):
    of_parameters = sum(len(p._backward_hooks or ()) for p in module.parameters())
    return of_parameters + sum("forward" in vars(child) for child in module.modules())


class Skipping(Changes):
    """Skips every third batch in its step, or in the hook before it."""

    def __init__(self, how):
        super().__init__()
        self.how, self.batches = how, 0

    def on_train_batch_start(self, batch, batch_idx):
        self.batches += 1
        return -1 if self.how == "hook" and self.batches % 3 == 0 else None

    def training_step(self, batch, batch_idx):
        return None if self.how == "step" and self.batches % 3 == 0 else super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        assert hooks(self) == 0


@pytest.mark.parametrize("data", [{"batch_size": 1}, {"batch_size": 12}], ids=["one domain", "many domains"])
@pytest.mark.parametrize("how", ["step", "hook"])
def test_batches_that_are_skipped_leave_no_hooks_behind(how, data):
    module, counted = Skipping(how), Hooks()
    callback = DynamicGradientAlignment(1, estimator="in_step", rule="static")
    datamodule = mixture(**data, batches_per_epoch=7, val=Points(9, 12))
    trainer(counted, callback, max_steps=30, accumulate_grad_batches=2, max_epochs=40).fit(
        module, datamodule=datamodule
    )
    assert len(counted.found) > 30 and not any(counted.found)
    assert hooks(module) == 0
    assert callback.alignments is not None


def test_samples_of_a_skipped_batch_do_not_count():
    class Counts(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step:
                trainer.should_stop = True

    module = Skipping("step")
    module.batches = 2
    callback = DynamicGradientAlignment(1, estimator="in_step", rule="static", probe_batch_size=100)
    trainer(Counts(), callback, max_steps=1, accumulate_grad_batches=3).fit(module, datamodule=mixture(batch_size=4))
    # of three batches the first was skipped
    assert callback.alignments.counts.sum() == 8


def test_manual_optimization_cannot_be_watched():
    class Manual(BySample):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

    with pytest.raises(MisconfigurationException, match="cannot watch manual optimization"):
        fit(Manual(), DynamicGradientAlignment(1, estimator="in_step"))
