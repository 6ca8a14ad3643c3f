"""Training steps that move parameters or state by hand, or skip batches: bitwise as without the callback."""

import copy
from collections import deque

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from lightning_dga import DynamicGradientAlignment, MixtureDataModule
from tests.helpers.toys import trainer


def data(seed, size=24, shift=0.0):
    return TensorDataset(torch.randn(size, 3, generator=torch.Generator().manual_seed(seed)) + shift)


class Base(L.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(3, 3)

    def training_step(self, batch, batch_idx):
        self.move(batch[0])
        return self.loss(batch[0])

    def loss(self, x):
        return (self.net(x) - x.flip(1)).square().mean()

    def move(self, x):
        pass

    def configure_optimizers(self):
        return torch.optim.Adam(self.net.parameters(), 0.05)

    def final(self):
        return [p.detach().clone() for p in self.parameters()]


class Teacher(Base):
    """A momentum teacher whose parameters are reassigned, like those of MoCo, but only later in the run."""

    def __init__(self):
        super().__init__()
        self.teacher, self.steps = copy.deepcopy(self.net).requires_grad_(False), 0

    def move(self, x):
        self.steps += 1
        if self.steps > 4:
            for mine, other in zip(self.net.parameters(), self.teacher.parameters(), strict=True):
                other.data = other.data * 0.9 + mine.data * 0.1

    def loss(self, x):
        return (self.net(x) - self.teacher(x)).square().mean()


class Codebook(Base):
    """Centroids that are not parameters, a queue, and a generator."""

    def __init__(self):
        super().__init__()
        self.state = {"codes": torch.randn(40, 3), "queue": deque(maxlen=4), "draw": np.random.default_rng(0)}

    def move(self, x):
        codes = self.state["codes"]
        nearest = torch.cdist(x.detach(), codes).argmin(1)
        codes[nearest] = 0.9 * codes[nearest] + 0.1 * x
        self.state["queue"].append(self.state["draw"].random())

    def loss(self, x):
        return (
            super().loss(x) * (1 + sum(self.state["queue"]))
            + (self.net(x) - self.state["codes"][: len(x)]).abs().mean()
        )

    def final(self):
        return [*super().final(), self.state["codes"].clone(), torch.tensor(list(self.state["queue"]))]


class ByHand(Base):
    """Steps its learning rate by hand, and another optimizer."""

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        self.extra = torch.optim.SGD([self.net.bias], 0.01, momentum=0.9)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 1.0)}

    def move(self, x):
        self.lr_schedulers().base_lrs[0] *= 0.9
        self.optimizers().param_groups[0]["lr"] *= 0.95
        kept, self.net.bias.grad = self.net.bias.grad, torch.ones(3)
        self.extra.step()
        self.net.bias.grad = kept

    def final(self):
        return [*super().final(), torch.tensor(self.optimizers().param_groups[0]["lr"])]


class Clustered(Base):
    """Moves the rows of an embedding by its `max_norm`."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 3, max_norm=0.5)

    def loss(self, x):
        return super().loss(x) + self.table(torch.arange(len(x)) % 5).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05)


def run(kind, *callbacks):
    model = kind()
    mixed = MixtureDataModule({"a": data(1), "b": data(2)}, data(3), batch_size=8)
    trainer(*callbacks, max_steps=6).fit(model, datamodule=mixed)
    return model.final()


@pytest.mark.parametrize("estimator", ["auto", "backward", "finite_difference"])
@pytest.mark.parametrize("kind", [Teacher, Codebook, ByHand, Clustered])
def test_training_is_bitwise_as_without_it(kind, estimator):
    callback = DynamicGradientAlignment(2, rule="static", estimator=estimator)
    try:
        found = run(kind, callback)
    except L.pytorch.utilities.exceptions.MisconfigurationException as refusal:
        assert estimator == "finite_difference" and "no step is both" in str(refusal)
        return
    for mine, plain in zip(found, run(kind), strict=True):
        assert torch.equal(mine, plain)
    assert callback.alignments.step == 6


class Skips(Base):
    """Skips batches, in one of the ways that Lightning allows."""

    how = None

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch[0])
        if (batch[0] < 5).any():
            return loss
        return {"none": None, "no key": {"other": loss}, "none in a dict": {"loss": None}, "empty": loss[None][:0]}[
            self.how
        ]


@pytest.mark.parametrize("estimator", ["auto", "backward"])
@pytest.mark.parametrize("how", ["none", "no key", "none in a dict", "empty"])
def test_a_domain_whose_batches_are_skipped_is_not_measured(how, estimator):
    model, callback = Skips(), DynamicGradientAlignment(2, rule="static", estimator=estimator)
    model.how = how
    # none of it is trained on, since Lightning itself does not take all of these
    mixed = MixtureDataModule({"good": data(1), "bad": data(2, shift=50.0)}, data(3), batch_size=4, weights=[1, 0])
    trainer(callback).fit(model, datamodule=mixed)
    assert callback.alignments.counts.tolist() == [4, 0]
    assert callback.alignments.values.isfinite().tolist() == [True, False]


def test_a_target_that_is_skipped_leaves_the_mixture_as_it_is_and_ends_the_run_at_last():
    model, callback = Skips(), DynamicGradientAlignment(1, estimator="backward")
    model.how = "none"
    mixed = MixtureDataModule({"a": data(1), "b": data(2)}, data(3, shift=50.0), batch_size=4)
    with (
        pytest.warns(UserWarning, match="given no loss"),
        pytest.raises(FloatingPointError, match=r"10 alignments in a row.*given a loss"),
    ):
        trainer(callback, max_steps=20).fit(model, datamodule=mixed)
    assert mixed.weights.tolist() == [0.5, 0.5]
