"""A probe keeps as many activations as training: modules that checkpoint activations in training do so in probes."""

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint as checkpoints
from torch import nn
from torch.utils.checkpoint import checkpoint

from lightning_dga.alignment import ProbeLoss, isolated
from lightning_dga.alignment.gradients.gradient import FlatGradient, _is_checkpointed_reentrantly
from lightning_dga.alignment.probing.modes import training

WIDTH = 8


def inner():
    wide = 4 * WIDTH
    return nn.Sequential(nn.Linear(WIDTH, wide), nn.GELU(), nn.Linear(wide, wide), nn.Tanh(), nn.Linear(wide, WIDTH))


class Flagged(nn.Module):
    """As in transformers, timm and diffusers."""

    gradient_checkpointing = False

    def __init__(self):
        super().__init__()
        self.inner, self.dropout, self.attention = inner(), 0.5, nn.MultiheadAttention(WIDTH, 1, dropout=0.5)
        self.gradient_checkpointing = True

    def forward(self, x):
        if self.gradient_checkpointing and self.training:
            x = checkpoint(self.block, x, use_reentrant=True)
        else:
            x = self.block(x)
        x = F.dropout(x, 0.5, self.training)
        return self.attention(x, x, x)[0]

    def block(self, x):
        x = F.scaled_dot_product_attention(x, x, x, dropout_p=0.5 if self.training else 0.0)
        return F.dropout(self.inner(x), p=self.dropout, training=self.training)


class Guarded(nn.Module):
    """Written by hand, without a flag."""

    def __init__(self):
        super().__init__()
        self.inner = inner()

    def forward(self, x):
        run = self.recomputed if self.training else self.inner
        return run(x)

    def recomputed(self, x):
        return checkpoints.checkpoint(self.inner, x, use_reentrant=False)


class LayerDrop(Guarded):
    """Skips whole layers in training (stochastic depth)."""

    def __init__(self):
        super().__init__()
        self.layerdrop = 1.0

    def forward(self, x):
        return x if self.training and torch.rand([]) < self.layerdrop else super().forward(x)


class Plain(nn.Module):
    """Has no activation checkpointing, so that evaluation mode is used."""

    def __init__(self):
        super().__init__()
        self.inner = inner()
        self.save_checkpoint_path, self.seen = "last.ckpt", []

    def forward(self, x):
        self.seen.append(self.training)
        return F.dropout(self.inner(x), 0.5, self.training)


class Off(Flagged):
    def __init__(self):
        super().__init__()
        self.gradient_checkpointing = False


def loss(module, batch):
    return module(batch).square().mean()


def kept(call):
    """Elements that autograd keeps for the backward pass."""
    sizes = {}

    def pack(tensor):
        if not isinstance(tensor, nn.Parameter):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = call()
    return sum(sizes.values()), result


@pytest.mark.parametrize("kind", [Flagged, Guarded, LayerDrop])
def test_checkpointing_stays_on_and_dropout_off(kind):
    torch.manual_seed(0)
    module, x = nn.Sequential(kind(), nn.Dropout(0.5)).double(), torch.randn(64, WIDTH).double()
    without, _ = kept(lambda: loss(module.eval(), x))
    with isolated(module.train()):
        size, value = kept(lambda: ProbeLoss(module, loss)(x))
        assert not _is_checkpointed_reentrantly(value)
        gradient = FlatGradient(list(module.parameters()))
        gradient.add_(value, 1.0)
        assert not any(p.grad is not None for p in module.parameters())
    assert size < 0.6 * without
    assert all(child.training for child in module.modules())
    assert getattr(module[0], "dropout", 0.5) == 0.5 and getattr(module[0], "layerdrop", 1.0) == 1.0
    expected = loss(module.eval(), x)
    expected.backward()
    torch.testing.assert_close(value, expected)
    for parameter in module.parameters():
        torch.testing.assert_close(gradient.view(parameter), parameter.grad.view(-1))


@pytest.mark.parametrize("kind", [Plain, Off])
def test_what_does_not_checkpoint_runs_in_evaluation_mode(kind):
    module = kind().train()
    with isolated(module):
        assert not any(child.training for child in module.modules())


def test_the_reentrant_way_is_back_afterwards():
    module, x = nn.Linear(2, 2), torch.randn(3, 2)
    with isolated(module), isolated(module):
        assert not _is_checkpointed_reentrantly(checkpoint(module, x.requires_grad_(), use_reentrant=True))
    assert _is_checkpointed_reentrantly(checkpoint(module, x.requires_grad_(), use_reentrant=True).sum())


class Mixing(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.norm, self.dropout = nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Dropout(0.5)

    def forward(self, x):
        x = x.flip(0) if self.training else x
        return F.dropout(self.dropout(self.norm(self.layer(x))), 0.5, self.training)


def test_training_mode_without_noise():
    module, x = Mixing(), torch.randn(4, WIDTH)
    expected = module.eval()(x).flip(0)
    with isolated(module.train()), training(module):
        torch.testing.assert_close(module(x), expected)
    assert all(child.training for child in module.modules())


def test_a_class_that_torch_made_of_a_users_is_the_users():
    """Like FSDP2, whose classes belong to a module of torch."""
    module = Guarded()
    module.__class__ = type("FSDPGuarded", (nn.Module, Guarded)[::-1], {"__module__": "torch.distributed.fsdp"})
    with isolated(module.train()):
        assert module.training and not module.inner.training


class Quiet(nn.BatchNorm1d):
    """A user-defined normalisation."""


def test_a_users_normalisation_does_not_train():
    module = nn.Sequential(nn.Linear(WIDTH, WIDTH), Quiet(WIDTH)).train()
    with isolated(module), training(module):
        assert not module[1].training
