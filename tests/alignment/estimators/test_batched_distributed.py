"""Estimators on several ranks: data-parallel, and with sharded parameters (FSDP2)."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from lightning_dga.alignment import Backward, Batched
from lightning_dga.models import GPT
from tests.helpers.held import assert_exact, expected, measure, sequences, tokens
from tests.helpers.processes import together
from tests.helpers.uses import Block, ByHand, Sometimes


def token_loss(module, batch):
    return module.alignment_loss(batch[0])


def small_gpt():
    torch.manual_seed(0)
    return GPT(11, context_length=5, d_model=8, num_layers=2, num_heads=2).eval()


def data_parallel(between):
    # three domains of three samples: the share of the last process is filled up
    model, probes = Block(between()), sequences()
    wanted = expected(model, probes)
    found = measure(Batched(), model, replace(probes, rank=dist.get_rank(), world_size=dist.get_world_size(), most=4))
    return found.values, wanted, found.counts


@pytest.mark.parametrize("between", [nn.Identity, ByHand])
def test_processes_share_the_samples(between):
    first, second = together(data_parallel, 2, between)
    for values, wanted, counts in (first, second):
        torch.testing.assert_close(values, wanted, rtol=1e-4, atol=1e-5)
        assert counts.tolist() == [3, 3, 3]
    assert torch.equal(first[0], second[0])


def one_goes_astray():
    model, probes = Block(Sometimes()), sequences()
    wanted, estimator = expected(model, probes), Batched()
    own = replace(probes, rank=dist.get_rank(), world_size=dist.get_world_size())
    measure(estimator, model, own)
    model.between.by_token = dist.get_rank() == 1
    return measure(estimator, model, own).values, wanted


def test_what_one_process_finds_out_holds_for_all():
    first, second = together(one_goes_astray, 2)
    torch.testing.assert_close(first[0], first[1], rtol=1e-4, atol=1e-5)
    assert torch.equal(first[0], second[0])


def sharded(estimator, policy):
    model, probes = small_gpt(), tokens(n=4, length=6)
    wanted = expected(model, probes, token_loss)
    for block in model.blocks:
        fully_shard(block, mp_policy=policy)
    fully_shard(model, mp_policy=policy)
    # what fully_shard hooks is the module's call
    found = measure(
        estimator(), model, replace(probes, rank=dist.get_rank(), world_size=dist.get_world_size()), called_loss
    )
    return found, wanted


def called_loss(module, batch):
    logits = module(batch[0][:, :-1])
    return nn.functional.cross_entropy(logits.transpose(1, 2).float(), batch[0][:, 1:], reduction="none").mean(1)


@pytest.mark.parametrize("estimator", [Backward, Batched])
@pytest.mark.parametrize("half", [False, True])
def test_sharded_parameters(estimator, half):
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if half else MixedPrecisionPolicy()
    for found, wanted in together(sharded, 2, estimator, policy):
        assert_exact(found, wanted, 2e-2 if half else 1e-4)
        assert found.counts.tolist() == [4, 4, 4]


def sharded_leftovers():
    model, probes = Block(ByHand()), sequences()
    wanted = expected(model, probes)
    fully_shard(model)
    found = measure(Batched(), model, replace(probes, rank=dist.get_rank(), world_size=dist.get_world_size()))
    return found, wanted, [p.grad for p in model.parameters()]


def test_sharded_leftovers():
    for found, wanted, gradients in together(sharded_leftovers, 2):
        assert_exact(found, wanted)
        assert not any(gradient is not None for gradient in gradients)
