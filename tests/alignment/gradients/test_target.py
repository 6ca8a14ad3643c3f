"""The target gradient under a preconditioner."""

import weakref

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_dga.alignment import Measurement, ProbeLoss, adam_preconditioner
from lightning_dga.alignment.gradients.target import target_gradient
from tests.helpers.held import output_loss, sequences
from tests.helpers.reference import gradient

WIDTH = 600


class MadeBytes(TorchDispatchMode):
    """The most bytes of tensors alive at once of those that operations within the block made."""

    def __init__(self):
        super().__init__()
        self.live = self.most = 0

    def _drop(self, size):
        self.live -= size

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        out = function(*arguments, **(keywords or {}))
        before = {leaf.untyped_storage()._cdata for leaf in tree_leaves(arguments) if isinstance(leaf, torch.Tensor)}
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage()._cdata not in before:
                storage = leaf.untyped_storage()
                self.live += storage.nbytes()
                weakref.finalize(storage, self._drop, storage.nbytes())
        self.most = max(self.most, self.live)
        return out


def trained(width=WIDTH):
    """A layer, and an optimizer with second moments for it."""
    torch.manual_seed(0)
    model = nn.Linear(width, width)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, width)).square().mean().backward()
        optimizer.step()
    optimizer.zero_grad()
    return model, optimizer


def measurement(model, optimizer):
    loss = ProbeLoss(model, output_loss)
    probes = sequences(width=WIDTH, length=2)
    diagonal = adam_preconditioner([optimizer]) if optimizer is not None else None
    return Measurement(model, loss, list(model.parameters()), probes, 3, 1, preconditioner=diagonal)


def test_it_is_scaled_by_the_diagonal_of_adam():
    model, optimizer = trained()
    given = measurement(model, optimizer)
    found = target_gradient(given)
    plain = gradient(model, output_loss, [(len(probe.domains), probe.batch) for probe in given.probes.target()])
    diagonal = torch.cat(
        [
            1 / ((optimizer.state[p]["exp_avg_sq"].double() / (1 - 0.999**3)).sqrt() + 1e-8).flatten()
            for p in model.parameters()
        ]
    )
    expected = plain * diagonal
    assert len(expected) > 2**16, "more than is scaled at a time"
    torch.testing.assert_close(
        found.gradient.buffers[0].double(), expected, rtol=1e-4, atol=1e-6 * expected.abs().max()
    )
    assert found.norm == pytest.approx((plain @ expected).sqrt().item(), rel=1e-4)


def test_the_diagonal_of_one_parameter_at_a_time_is_all_that_it_adds():
    model, optimizer = trained()
    size = sum(4 * p.numel() for p in model.parameters())
    extra = []
    for chosen in (None, optimizer):
        given = measurement(model, chosen)
        with MadeBytes() as made:
            target_gradient(given)
        extra.append(made.most / size)
    # the gradient itself, and that of the one layer as the backward pass makes it
    assert extra[0] < 2.1
    # or its diagonal, and two pieces that are scaled
    assert extra[1] < 2.1 + 2 * 2**16 * 4 / size
