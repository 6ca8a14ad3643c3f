"""Probes held in memory, and what every estimator is tested with on them."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from lightning_dga.alignment import Measurement, ProbeLoss
from tests.helpers.reference import gradient


@dataclass(frozen=True, eq=False)
class Probe:
    domains: np.ndarray
    indices: np.ndarray
    batch: Any


def list_of_one(samples):
    return [samples]


@dataclass(frozen=True, eq=False)
class Held:
    """``domains`` is ``[k, n, ...]``, ``aim`` is ``[m, ...]``; a batch is a list of one tensor of samples.

    Processes share the samples as the data module's do; ``collate`` turns a tensor of samples into a batch.
    """

    domains: torch.Tensor
    aim: torch.Tensor
    most: int = 100
    rank: int = 0
    world_size: int = 1
    collate: Any = list_of_one

    @property
    def size(self):
        return self.domains.shape[1]

    @property
    def samples(self):
        return self.domains.shape[0] * self.domains.shape[1]

    @property
    def target_samples(self):
        return len(self.aim)

    @property
    def batch_size(self):
        return self.most

    def in_batches_of(self, most):
        return replace(self, most=most)

    def target(self):
        own = self.aim[self.rank :: self.world_size]
        yield Probe(np.full(len(own), -1), np.arange(len(own)), self.collate(own))

    def by_domain(self, only=None):
        for domain, samples in enumerate(self.domains):
            own = np.arange(len(samples))[self.rank :: self.world_size]
            if len(own) and (only is None or domain in only):
                yield Probe(np.full(len(own), domain), own, self.collate(samples[own]))

    def mixed(self, only=None, most=None, *, in_turn=False):
        k, n = self.domains.shape[:2]
        domains = np.repeat(np.arange(k) if only is None else np.asarray(only), n)
        indices = np.tile(np.arange(n), len(domains) // n)
        if in_turn:
            turns = np.argsort(indices, kind="stable")
            domains, indices = domains[turns], indices[turns]
        share, size = -(-len(domains) // self.world_size), min(most or self.most, self.most)
        own = np.arange(self.rank * share, (self.rank + 1) * share)
        counted, own = own < len(domains), np.minimum(own, len(domains) - 1)
        for start in range(0, share, size):
            part, count = own[start : start + size], counted[start : start + size]
            batch = self.collate(self.domains[domains[part], indices[part]])
            yield Probe(np.where(count, domains[part], -1), indices[part], batch)

    def whole(self):
        return replace(self, rank=0, world_size=1)


def sequences(k=3, n=3, length=6, width=4, **settings):
    """Real-valued sequences ``[length, width]``, of another mean in each domain."""
    means = torch.randn(k, 1, 1, width)
    return Held(torch.randn(k, n, length, width) + means, torch.randn(5, length, width) + means[0], **settings)


def tokens(k=3, n=3, length=6, vocabulary=11, **settings):
    """Sequences of tokens ``[length]``."""
    return Held(torch.randint(vocabulary, (k, n, length)), torch.randint(vocabulary, (5, length)), **settings)


def output_loss(module, batch):
    """One value for each sample, of any output that has samples first."""
    y = module(batch[0])
    y = y.reshape(len(batch[0]), -1).to(torch.promote_types(y.dtype, torch.float32))
    return (y + 0.3).square().mean(1)


def measure(estimator, model, probes, loss=output_loss, parameters=None, **settings):
    chosen = [p for p in model.parameters() if p.requires_grad] if parameters is None else parameters
    others = [p for p in model.parameters() if p.requires_grad and not any(p is own for own in chosen)]
    probe_loss = ProbeLoss(model, loss, **settings)
    return estimator.measure(Measurement(model, probe_loss, chosen, probes, len(probes.domains), 1, others))


def expected(model, probes, loss=output_loss):
    """``[k]`` alignments by definition, in float64."""
    target = gradient(model, loss, [(len(probe.domains), probe.batch) for probe in probes.target()])
    return torch.stack(
        [gradient(model, loss, [(len(probe.domains), probe.batch)]) @ target for probe in probes.by_domain()]
    )


def assert_exact(found, wanted, digits=1e-4):
    """Relative to the largest: a domain that happens to be orthogonal to the target has no digits of its own."""
    assert found is not None
    error = (found.values - wanted).abs().max() / wanted.abs().max()
    assert error < digits, f"{found.values.tolist()} is not {wanted.tolist()}: relative error {error:.1e}"
