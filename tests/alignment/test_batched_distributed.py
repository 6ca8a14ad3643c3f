"""Several processes: data-parallel, and with parameters that are spread over them (FSDP2)."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from lightning_dga.alignment import Backward, Batched, EstimatorRefusal
from lightning_dga.models import GPT
from tests.alignment.held import assert_exact, expected, measure, sequences, tokens
from tests.alignment.test_batched import Block, ByHand, Sometimes
from tests.processes import together


def token_loss(module, batch):
    return module.alignment_loss(batch[0])


def small_gpt():
    torch.manual_seed(0)
    return GPT(11, context_length=5, d_model=8, num_layers=2, num_heads=2).eval()


def data_parallel(rank, size, between):
    # three domains of three samples: the share of the last process is filled up
    model, probes = Block(between()), sequences()
    wanted = expected(model, probes)
    found = measure(Batched(), model, replace(probes, rank=rank, world_size=size, most=4))
    return found.values, wanted, found.counts


@pytest.mark.parametrize("between", [nn.Identity, ByHand])
def test_processes_share_the_samples(between, tmp_path):
    first, second = together(data_parallel, tmp_path, between)
    for values, wanted, counts in (first, second):
        torch.testing.assert_close(values, wanted, rtol=1e-4, atol=1e-5)
        assert counts.tolist() == [3, 3, 3]
    assert torch.equal(first[0], second[0])


def one_goes_astray(rank, size):
    model, probes = Block(Sometimes()), sequences()
    wanted, estimator = expected(model, probes), Batched()
    own = replace(probes, rank=rank, world_size=size)
    measure(estimator, model, own)
    model.between.by_token = rank == 1
    return measure(estimator, model, own).values, wanted


def test_what_one_process_finds_out_holds_for_all(tmp_path):
    first, second = together(one_goes_astray, tmp_path)
    torch.testing.assert_close(first[0], first[1], rtol=1e-4, atol=1e-5)
    assert torch.equal(first[0], second[0])


def sharded(rank, size, estimator, policy):
    model, probes = small_gpt(), tokens(n=4, length=6)
    wanted = expected(model, probes, token_loss)
    for block in model.blocks:
        fully_shard(block, mp_policy=policy)
    fully_shard(model, mp_policy=policy)
    # what fully_shard hooks is the module's call
    found = measure(estimator(), model, replace(probes, rank=rank, world_size=size), called_loss)
    return found, wanted


def called_loss(module, batch):
    logits = module(batch[0][:, :-1])
    return nn.functional.cross_entropy(logits.transpose(1, 2).float(), batch[0][:, 1:], reduction="none").mean(1)


@pytest.mark.parametrize("estimator", [Backward, Batched])
@pytest.mark.parametrize("half", [False, True])
def test_sharded_parameters(estimator, half, tmp_path):
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if half else MixedPrecisionPolicy()
    for found, wanted in together(sharded, tmp_path, estimator, policy):
        assert_exact(found, wanted, 2e-2 if half else 1e-4)
        assert found.counts.tolist() == [4, 4, 4]


def sharded_leftovers(rank, size):
    model, probes = Block(ByHand()), sequences()
    fully_shard(model)
    with pytest.raises(EstimatorRefusal) as refusal:
        measure(Batched(), model, replace(probes, rank=rank, world_size=size))
    return str(refusal.value)


def test_sharded_leftovers_are_refused_by_name(tmp_path):
    for message in together(sharded_leftovers, tmp_path):
        assert "outside of layers that can be seen sample by sample: between.scale, between.token." in message
