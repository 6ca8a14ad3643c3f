"""Estimators that multiply with a few singular vectors of the target gradient."""

import pytest
import torch
from torch import nn

from lightning_dga.alignment import Batched, InStep
from lightning_dga.models import GPT
from tests.helpers.held import Held, expected, measure, sequences

pytestmark = pytest.mark.numerics


def loss(module, batch):
    return module.alignment_loss(batch[0])


def trained():
    """A GPT that was slightly trained on different domains, and probes of them."""
    model = GPT(64, 16, d_model=96, num_layers=2)
    tokens = torch.randint(0, 64, (4, 16, 17)) // torch.arange(1, 5).view(4, 1, 1)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(10):
        optimizer.zero_grad()
        model.alignment_loss(tokens.flatten(0, 1)).mean().backward()
        optimizer.step()
    return model.eval(), Held(tokens[1:, :4], tokens[0, :4])


def relative_error(found, wanted):
    return ((found.values - wanted).abs().max() / wanted.abs().max()).item()


def test_sixteen_vectors_are_nearly_all_of_a_gradient():
    model, probes = trained()
    wanted = expected(model, probes, loss)
    assert relative_error(measure(Batched(), model, probes, loss), wanted) < 1e-5
    assert 1e-5 < relative_error(measure(Batched(rank=16), model, probes, loss), wanted) < 1e-2


def test_what_is_not_of_low_rank_is_used_whole():
    """Random inputs and outputs: four vectors hold little of such a matrix."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 32))
    probes = sequences(n=40, length=8)
    wanted = expected(model, probes, flat_loss)
    assert relative_error(measure(Batched(rank=1), model, probes, flat_loss), wanted) < 1e-4


def flat_loss(module, batch):
    return (module(batch[0]) - batch[0].flatten(1).flip(1)).square().mean(1)


def test_no_random_number_is_drawn():
    model, probes = trained()
    before = torch.get_rng_state()
    measure(Batched(rank=4), model, probes, loss)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("estimator", [Batched, InStep])
def test_a_rank_that_is_none_is_refused(estimator):
    with pytest.raises(ValueError, match="`rank` must be at least 1, got 0"):
        estimator(rank=0)
