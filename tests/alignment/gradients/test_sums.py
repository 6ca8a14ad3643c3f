"""Sums by domain: the variance of one sample's alignment, from samples or from batches of them."""

from dataclasses import dataclass, replace

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

from lightning_dga.alignment import Backward, Batched, FiniteDifference, FlatGradient, InStep, ProbeLoss
from lightning_dga.alignment.estimators.self_test import RehearsedStep
from lightning_dga.alignment.gradients.sums import DomainSums
from lightning_dga.alignment.gradients.target import TargetGradient
from tests.helpers.held import Held, measure, output_loss, sequences
from tests.helpers.processes import together
from tests.helpers.reference import gradient
from tests.helpers.uses import Block, ByHand


def sums(k=1):
    return DomainSums(TargetGradient(FlatGradient([nn.Parameter(torch.zeros(1))]), 0.0, 1.0), k)


def add(into, domain, dots, counts):
    dots, counts = torch.tensor(dots).double(), torch.tensor(counts).double()
    into.add(torch.full((len(dots),), domain), dots, torch.zeros_like(dots), counts)


def test_samples_give_their_variance():
    into, dots = sums(2), [1.0, 4.0, 2.5]
    add(into, 1, dots[:1], [1])
    add(into, 1, dots[1:], [1, 1])
    found = into.alignments(0)
    assert found.sample_variances[1].item() == pytest.approx(torch.tensor(dots).var().item())
    assert found.standard_errors[1].item() == pytest.approx(torch.tensor(dots).std().item() / 3**0.5)
    assert found.sample_variances[0].isnan()


@pytest.mark.parametrize("sizes", [[1, 1], [4, 4], [1, 3, 8], [2] * 6])
def test_batches_of_any_sizes_estimate_it_without_bias(sizes):
    deviation, mean, k = 3.0, 5.0, 20_000
    generator, into = torch.Generator().manual_seed(0), sums(k)
    for size in sizes:
        dots = mean + deviation * torch.randn(size, k, generator=generator, dtype=torch.float64).mean(0)
        into.add(torch.arange(k), dots, None, torch.full_like(dots, size))
    found = into.alignments(0)
    expected = deviation**2
    # the standard deviation of a variance on n - 1 degrees of freedom is sqrt(2 / (n - 1)) of it
    error = expected * (2 / (len(sizes) - 1) / k) ** 0.5
    assert abs(found.sample_variances.mean().item() - expected) < 4 * error
    assert found.values.var().item() == pytest.approx(found.standard_errors.square().mean().item(), rel=0.05)


def test_one_batch_tells_nothing_of_it():
    into = sums()
    add(into, 0, [2.0], [8])
    assert into.alignments(0).sample_variances.isnan().all()


def test_it_survives_a_mean_that_is_much_larger():
    into, dots = sums(), 1e6 + torch.randn(50, generator=torch.Generator().manual_seed(0)).double()
    into.add(torch.zeros(50, dtype=torch.int64), dots, None, torch.ones(50))
    assert into.alignments(0).sample_variances.item() == pytest.approx(dots.var().item(), rel=1e-3)
    equal = sums()
    add(equal, 0, [1e8 / 3] * 3, [1, 1, 1])
    assert equal.alignments(0).sample_variances.item() >= 0


def test_rows_that_several_ranks_add_count_once():
    alone, shared = sums(), sums()
    for dot, count in ((1.0, 4), (5.0, 2)):
        row = torch.tensor([dot]), torch.zeros(1), torch.tensor([count])
        alone.add(torch.zeros(1, dtype=torch.int64), *row)
        for _ in range(3):
            shared.add(torch.zeros(1, dtype=torch.int64), *row, share=1 / 3)
    one, other = alone.alignments(0), shared.alignments(0)
    torch.testing.assert_close(other.sample_variances, one.sample_variances)
    assert other.counts.tolist() == one.counts.tolist() == [6]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_value_that_is_not_finite_leaves_out_its_domain_only(bad):
    into = sums(2)
    add(into, 0, [1.0, bad, 2.0], [1, 1, 1])
    add(into, 1, [1.0, 3.0], [1, 1])
    found = into.alignments(0)
    assert found.counts.tolist() == [0, 2]
    assert found.values.isnan().tolist() == found.sample_variances.isnan().tolist() == [True, False]


def by_definition(model, probes):
    """The variance of the samples' inner products, by one float64 backward pass for each."""
    target = gradient(model, output_loss, [(1, [sample[None]]) for sample in probes.aim])
    dots = [[gradient(model, output_loss, [(1, [s[None]])]) @ target for s in domain] for domain in probes.domains]
    return torch.tensor(dots).var(1)


@pytest.mark.parametrize("estimator", [Batched, FiniteDifference, InStep])
def test_estimators_that_see_samples_tell_their_variance(estimator):
    torch.manual_seed(0)
    model, probes = Block(nn.Identity()), sequences(n=5)
    made = estimator()
    if estimator is InStep:
        made = RehearsedStep(made, ProbeLoss(model, lambda *of: output_loss(*of).mean()), pure=False)
    found = measure(made, model, probes)
    torch.testing.assert_close(found.sample_variances, by_definition(model, probes), rtol=5e-3, atol=1e-6)


def test_the_variance_of_part_of_a_gradient_is_not_told():
    torch.manual_seed(0)
    found = measure(Batched(), Block(ByHand()), sequences())
    assert found.measured.all() and found.sample_variances.isnan().all()


@dataclass(frozen=True, eq=False)
class InBatches(Held):
    """Probes whose domains come in batches of ``size`` samples."""

    size: int = 2

    def by_domain(self, only=None):
        for probe in super().by_domain(only):
            for start in range(0, len(probe.domains), self.size):
                part = slice(start, start + self.size)
                yield type(probe)(probe.domains[part], probe.indices[part], [probe.batch[0][part]])


def test_the_reference_tells_it_from_batches():
    torch.manual_seed(0)
    model, probes = Block(nn.Identity()), sequences(n=6)
    exact = by_definition(model, probes)
    torch.testing.assert_close(measure(Backward(), model, InBatches(**vars(probes), size=1)).sample_variances, exact)
    pairs = measure(Backward(), model, InBatches(**vars(probes))).sample_variances
    assert pairs.isfinite().all() and not torch.allclose(pairs, exact)
    assert measure(Backward(), model, probes).sample_variances.isnan().all()


def on_ranks(make, whole):
    model, probes = Block(nn.Identity()), sequences(n=5)
    if dist.is_initialized():
        probes = replace(probes, rank=dist.get_rank(), world_size=dist.get_world_size())
        model = fully_shard(model) if whole else model
    return measure(make(), model, InBatches(**vars(probes)) if whole else probes)


@pytest.mark.cluster
@pytest.mark.parametrize(("estimator", "whole"), [(Batched, False), (FiniteDifference, False), (Backward, True)])
def test_two_ranks_tell_what_one_tells(estimator, whole):
    torch.manual_seed(0)
    alone = on_ranks(estimator, whole)
    assert alone.sample_variances.isfinite().all()
    first, second = together(on_ranks, 2, estimator, whole)
    torch.testing.assert_close(first.sample_variances, alone.sample_variances, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(first.values, alone.values, rtol=1e-3, atol=1e-5)
    assert torch.equal(first.sample_variances, second.sample_variances)
    assert first.counts.tolist() == alone.counts.tolist()
