import gc
from dataclasses import replace

import pytest
import torch
from torch import nn

from lightning_dga.alignment import Backward, FlatGradient, Measurement, ProbeLoss
from tests.helpers.reference import alignments as reference
from tests.helpers.toys import Plain, mixture

pytestmark = pytest.mark.numerics


def estimate(model, datamodule, size=3, update=0, **loss_settings):
    loss = ProbeLoss(model.eval(), lambda module, batch: module.loss(batch), **loss_settings)
    return measure(model, loss, datamodule.probes(update, size))


def measure(model, loss, probes):
    parameters = [p for p in model.parameters() if p.requires_grad]
    return Backward().measure(Measurement(model, loss, parameters, probes, num_domains=3, step=1))


class Given:
    """Probes from given batches."""

    def __init__(self, target, domains):
        self.target, self.by_domain = (lambda: iter(target)), (lambda only=None: iter(domains))


def expected(model, datamodule, size=3, update=0):
    return reference(model, type(model).loss, datamodule, update, size, len(datamodule.domain_names))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("size", [1, 3, 9])
def test_it_equals_the_float64_reference(norm, size):
    model, data = Plain(norm=norm), mixture()
    found = estimate(model, data, size)
    torch.testing.assert_close(found.values, expected(model, data, size), rtol=1e-5, atol=1e-6)
    assert found.counts.tolist() == [size] * 3


def test_losses_and_the_target_are_reported():
    model, data = Plain(), mixture()
    found = estimate(model, data)
    for domain, probe in enumerate(data.probes(0, 3).by_domain()):
        assert found.losses[domain].item() == pytest.approx(model.loss(probe.batch).item(), rel=1e-5)
    batches = list(data.probes(0, 3).target())
    mean = sum(len(p.domains) * model.loss(p.batch).item() for p in batches) / sum(len(p.domains) for p in batches)
    assert found.target_loss == pytest.approx(mean, rel=1e-5)


class Unusual(Plain):
    """Tied, frozen and unused parameters, one used by hand, a sparse gradient."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.unused = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.table = nn.Embedding(50, 4, sparse=True)

    def loss(self, batch):
        x, y, number = batch
        hidden = self.second(torch.tanh(self.frozen(self.first(x)))) * self.scale + self.table(number[:, 1] % 50)
        return ((self.layers(hidden.transpose(0, 1).transpose(0, 1)) - y) ** 2).mean()


def test_tied_frozen_unused_and_sparse_parameters_are_exact():
    model, data = Unusual(), mixture()
    torch.testing.assert_close(estimate(model, data).values, expected(model, data), rtol=1e-5, atol=1e-6)


def test_a_loss_per_sample_and_its_mean_are_the_same():
    model, data = Plain(), mixture()
    found = estimate(model, data)
    per_sample = ProbeLoss(model, lambda module, batch: ((module.layers(batch[0]) - batch[1]) ** 2).squeeze(1))
    again = measure(model, per_sample, data.probes(0, 3))
    torch.testing.assert_close(again.values, found.values)


def test_a_loss_scale_keeps_the_result():
    model, data = Plain(), mixture()
    torch.testing.assert_close(estimate(model, data, scale=65536.0).values, estimate(model, data).values)


def test_gradients_of_the_user_are_not_touched():
    model, data = Plain(), mixture()
    model.layers[0].weight.grad = kept = torch.full_like(model.layers[0].weight, 7.0)
    estimate(model, data)
    assert model.layers[0].weight.grad is kept
    assert (kept == 7).all()
    assert model.layers[3].weight.grad is None
    assert not any(p._backward_hooks for p in model.parameters())


def test_a_domain_whose_gradient_is_not_finite_is_left_out():
    model, data = Plain(), mixture()
    probes = list(data.probes(0, 3).by_domain())
    probes[1].batch[0][0, 0] = float("inf")
    loss = ProbeLoss(model, lambda module, batch: module.loss(batch))
    found = measure(model, loss, Given(data.probes(0, 3).target(), probes))
    assert found.counts.tolist() == [3, 0, 3]
    assert found.measured.tolist() == [True, False, True]
    assert found.values.isnan().tolist() == [False, True, False]
    torch.testing.assert_close(found.values[0], expected(model, data)[0], rtol=1e-5, atol=1e-6)


def test_a_target_gradient_that_is_not_finite_gives_nothing():
    model, data = Plain(), mixture()
    probes = data.probes(0, 3)
    target = [replace(p, batch=[p.batch[0] * float("nan"), *p.batch[1:]]) for p in probes.target()]
    loss = ProbeLoss(model, lambda module, batch: module.loss(batch))
    assert measure(model, loss, Given(target, probes.by_domain())) is None


def test_half_precision_parameters_get_a_float32_gradient():
    gradient = FlatGradient([nn.Parameter(torch.ones(3, dtype=torch.bfloat16)), nn.Parameter(torch.ones(2).double())])
    assert sorted(str(buffer.dtype) for buffer in gradient.buffers) == ["torch.float32", "torch.float64"]


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (lambda module, batch: None, TypeError, "is a NoneType, expected a tensor. Define `alignment_loss"),
        (lambda module, batch: module.layers(batch[0]), ValueError, r"has shape \(4, 1\)"),
        (lambda module, batch: batch[0].sum(), ValueError, "does not depend on any trainable parameter"),
    ],
)
def test_what_is_no_loss_is_named(loss, error, message):
    model, data = Plain(), mixture()
    with pytest.raises(error, match=message):
        ProbeLoss(model, loss)(next(data.probes(0, 3).target()).batch)


def test_only_one_gradient_is_held_however_many_domains_there_are():
    """Counts the bytes of the tensors that live during the passes over the domains."""
    # what lives already is not looked through each time
    gc.freeze()
    model = nn.Sequential(*(nn.Linear(200, 200, bias=False) for _ in range(10)))
    size = sum(p.numel() for p in model.parameters())
    gradient = FlatGradient(list(model.parameters()))
    gradient.add_(model(torch.randn(2, 200)).square().mean(), 1.0)
    held = []

    def measure(index, grad):
        gc.collect()
        alive = [t for t in gc.get_objects() if isinstance(t, torch.Tensor) and t.numel() == 200 * 200]
        held.append(sum(t.untyped_storage().nbytes() == t.nbytes for t in alive))

    from lightning_dga.alignment.gradients.gradient import visit_gradients

    visit_gradients(model(torch.randn(2, 200)).square().mean(), list(model.parameters()), measure)
    gc.unfreeze()
    assert len(held) == 10
    # the ten parameters, and the one gradient that is being visited
    assert max(held) <= 12, f"{held} matrices of a model of {size} parameters were alive"
