"""A loss that probes cannot compute is reported before training starts; a failure in a probe names the domain."""

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from lightning_dga import DynamicGradientAlignment
from lightning_dga.alignment.probing.snapshots import StateChangedError
from tests.helpers.toys import Plain, mixture, trainer


class Detector(nn.Module):
    """Gives losses in training mode, and what it found in evaluation mode, as torchvision's detectors do."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))

    def forward(self, x, y):
        found = self.layers(x)
        return {"box": (found - y).square().mean()} if self.training else [{"boxes": found}]


class Detecting(Plain):
    steps = 0

    def __init__(self):
        super().__init__()
        self.layers = Detector()

    def training_step(self, batch, batch_idx):
        self.steps += 1
        return sum(self.layers(batch[0], batch[1]).values())


class OnlyWhileTraining(Plain):
    """Returns no loss otherwise."""

    steps = 0

    def training_step(self, batch, batch_idx):
        self.steps += 1
        return self.loss(batch) if self.training else None


class Own(OnlyWhileTraining):
    def alignment_loss(self, batch):
        return self.loss(batch) if self.training else {}


@pytest.mark.parametrize("estimator", ["auto", "backward", "in_step"])
@pytest.mark.parametrize("kind", [Detecting, OnlyWhileTraining, Own])
def test_a_model_without_a_loss_in_evaluation_mode_is_refused_before_training(kind, estimator):
    module = kind()
    expected = rf"{kind.__name__} has no loss in evaluation mode.*Define `alignment_loss\(batch\)`.*`loss_fn\(pl_module"
    with pytest.raises(MisconfigurationException, match=expected):
        trainer(DynamicGradientAlignment(2, estimator=estimator)).fit(module, datamodule=mixture())
    assert module.steps == 0 and all(child.training for child in module.modules())


def test_what_the_message_advises_works():
    def loss(module, batch):
        module.layers.train()
        return sum(module.layers(batch[0], batch[1]).values())

    def run(*callbacks):
        torch.manual_seed(0)
        module = Detecting()
        trainer(*callbacks).fit(module, datamodule=mixture())
        return module.state_dict()

    callback = DynamicGradientAlignment(2, rule="static", loss_fn=loss)
    found, plain = run(callback), run()
    assert callback.alignments.step == 6
    assert all(torch.equal(found[name], plain[name]) for name in plain)


class Fails(Plain):
    def __init__(self, error):
        super().__init__()
        self.failure = error

    def alignment_loss(self, batch):
        if (batch[2][:, 0] == 1).any() and len(batch[0]) == 3:
            raise self.failure
        return self.loss(batch)


def test_a_failure_names_the_domain():
    data = mixture(target_batch_size=4)
    fit = trainer(DynamicGradientAlignment(2, estimator="backward", probe_batch_size=3))
    with pytest.raises(ArithmeticError, match=r"a bad sample \(in the loss of a probe of domain 'domain1'\)"):
        fit.fit(Fails(ArithmeticError("a bad sample")), datamodule=data)


def test_a_failure_on_the_target_names_it():
    data = mixture(target_batch_size=3)
    with pytest.raises(ArithmeticError, match="in the loss of a probe of target 'target'"):
        trainer(DynamicGradientAlignment(2, estimator="backward")).fit(Fails(ArithmeticError("bad")), datamodule=data)


def test_parameters_that_are_changed_unseen_are_named_before_training():
    class Unseen(Plain):
        """Writes through the memory that NumPy shares with a parameter."""

        def training_step(self, batch, batch_idx):
            self.layers[3].bias.detach().numpy()[:] += 0.1
            return self.loss(batch)

    with pytest.raises(StateChangedError, match=r"changed `layers.3.bias`, in a way that cannot be undone"):
        trainer(DynamicGradientAlignment(100)).fit(Unseen(), datamodule=mixture())
