"""Writes of a loss into parameters are undone, without copying parameters that it does not write to."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_dga.alignment import ProbeLoss, isolated
from lightning_dga.alignment.gradients.gradient import FlatGradient
from lightning_dga.alignment.probing.snapshots import StateChangedError


class Net(nn.Module):
    def __init__(self, write):
        super().__init__()
        self.weight, self.other, self.write = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(4, 3)), write


def loss(net, batch):
    net.write(net)
    return (F.linear(batch, net.weight) - F.linear(batch, net.other)).square().mean()


@torch.no_grad()
def average(net):
    net.other.mul_(0.9).add_(net.weight, alpha=0.1)


def average_by_data(net):
    net.other.data.mul_(0.9).add_(net.weight.data, alpha=0.1)


def replaced_data(net):
    net.other.data = net.other.data * 0.9 + 0.1 * net.weight.data


@torch.no_grad()
def lerp(net):
    torch._foreach_lerp_([net.other], [net.weight], 0.5)


@torch.no_grad()
def copied(net):
    net.other.copy_(0.5 * net.weight)


@torch.no_grad()
def rows(net):
    net.other[1:] = 3.0


@torch.no_grad()
def one_of_two_views(net):
    net.other.view(-1)[::2].neg_()


@torch.no_grad()
def normalised(net):
    net.weight.div_(net.weight.norm(dim=1, keepdim=True))


def normalised_into(net):
    F.normalize(net.weight.data, out=net.weight.data)


def renormed(net):
    F.embedding(torch.tensor([0, 1]), net.weight, max_norm=0.1)


@torch.no_grad()
def initialised(net):
    nn.init.constant_(net.other, 0.5)


def optimized(net):
    net.other.grad = torch.ones_like(net.other)
    torch.optim.SGD([net.other], 0.1).step()


def frozen(net):
    net.other.requires_grad_(False)


WRITES = [
    average, average_by_data, replaced_data, lerp, copied, rows, one_of_two_views, normalised, normalised_into,
    renormed, initialised, optimized, frozen,
]  # fmt: skip


@pytest.mark.parametrize("write", WRITES)
def test_it_is_undone_after_each_probe(write):
    net, batch = Net(write), torch.randn(5, 3)
    gradient = torch.randn(4, 3)
    net.weight.grad, net.other.grad = gradient, None
    before, pointers = [p.detach().clone() for p in net.parameters()], [p.data_ptr() for p in net.parameters()]
    with isolated(net):
        measured = ProbeLoss(net, loss)
        value = measured(batch)
        assert write is frozen or any(not torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))
        FlatGradient([net.weight]).add_(value, 1.0)
        assert all(torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))
        assert torch.equal(measured(batch), value)
        with torch.no_grad():
            assert torch.equal(measured(batch, with_graph=False), value)
        assert all(torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))
    assert all(torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))
    assert [p.data_ptr() for p in net.parameters()] == pointers
    assert net.weight.grad is gradient and net.other.grad is None and net.other.requires_grad


def test_the_gradient_is_that_of_the_forward_pass_that_was_run():
    """The weights that a loss normalises in place stay so until the backward pass has used them."""
    net, batch = Net(normalised), torch.randn(5, 3)
    with isolated(net):
        gradient = FlatGradient([net.weight, net.other])
        gradient.add_(ProbeLoss(net, loss)(batch), 1.0)
    loss(net, batch).backward()
    torch.testing.assert_close(gradient.view(net.other).view(4, 3), net.other.grad)


def test_only_what_is_written_is_copied():
    net = Net(average)
    with isolated(net) as writes:
        ProbeLoss(net, loss)(torch.randn(5, 3))
        assert [content.nbytes() for _, content in writes._saved.values()] == [net.other.nbytes]
    with isolated(net) as writes:
        net.write = lambda net: net.weight.sum().add_(net.other.sum())
        ProbeLoss(net, loss)(torch.randn(5, 3))
        assert not writes._saved


def test_a_write_behind_our_back_is_named():

    def write(net):
        with torch.no_grad(), torch._C.DisableTorchFunctionSubclass(), torch._C.DisableTorchFunction():
            net.other.mul_(2)

    net = Net(write)
    with pytest.raises(StateChangedError, match=r"changed `other`.*alignment_loss"), isolated(net):
        ProbeLoss(net, loss)(torch.randn(5, 3))


def test_checksums_tell_what_differs():
    net = Net(average)
    with isolated(net) as writes:
        before = writes.checksums()
        assert writes.differing(before) == []
        net.other.data[[0, 1]] = net.other.data[[1, 0]]
        assert writes.differing(before) == ["other"]
