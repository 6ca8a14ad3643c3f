"""Watched training steps under FSDP2: each rank measures its own samples with a shard of the target gradient."""

import numpy as np
import pytest
import torch
import torch.distributed as dist

from lightning_dga.alignment import InStep, ProbeLoss, isolated
from lightning_dga.alignment.estimators.self_test import RehearsedStep
from lightning_dga.alignment.per_sample.layer_products import LayerProducts
from tests.alignment.estimators.test_sharded import (
    LAYOUTS,
    Moved,
    error,
    gradients,
    loss,
    measurement,
    padded,
    sharded,
    whole,
)
from tests.helpers.processes import together
from tests.helpers.reference import gradient
from tests.helpers.zoo import DOMAINS, VOCABULARY, mixture, sequence

pytestmark = pytest.mark.cluster
# two micro-batches of each process, up to four: one process has a batch of one domain where the others have several
DRAWN = {
    "many domains": [[[0, 1, 2, 1], [0, 0, 0, 2]], [[2, 2, 2, 2], [1, 0, 1, 1]], [[0] * 4] * 2, [[1, 2, 1, 2]] * 2],
    "one domain": [[[0] * 4, [2] * 4], [[1] * 4, [1] * 4], [[0] * 4, [1] * 4], [[2] * 4, [0] * 4]],
}


def batches(kind, rank):
    generator = torch.Generator().manual_seed(rank)
    return [(np.array(own), torch.randint(VOCABULARY, (4, 9), generator=generator)) for own in DRAWN[kind][rank]]


def train(model, kind, estimator=None, **settings):
    """One optimizer step's backward passes, watched if there is an estimator; what it measured."""
    if estimator is not None:
        with isolated(model):
            measured = measurement(model, settings.pop("size", 5))
            estimator.begin(measured, **{"stale": (), "pure": kind == "one domain", **settings})
    for domains, tokens in batches(kind, dist.get_rank()):
        if estimator is not None:
            estimator.watch(domains, 0.5)
        mean = loss(model, tokens).mean() / 2
        mean.backward()
        if estimator is not None:
            estimator.unwatch(mean.detach())
    return estimator.finish(3).state_dict() if estimator is not None else None


def watched(kind, settings, begin):
    return train(sharded(gain=kind == "one domain", **settings), kind, InStep(), **begin)


def expected(kind, processes, size=5, samples=6):
    """Alignments by definition on the samples of all ranks, at most ``size`` of a domain from each."""
    model, data = whole(gain=kind == "one domain"), mixture(sequence, target_batch_size=samples)
    target = gradient(model, loss, [(len(probe.domains), probe.batch) for probe in data.probes(0, 5).target()])
    own = {domain: [] for domain in range(DOMAINS)}
    for rank in range(processes):
        drawn = batches(kind, rank)
        for domain in range(DOMAINS):
            rows = torch.cat([tokens[torch.from_numpy(domains == domain)] for domains, tokens in drawn])
            own[domain].append(rows if kind == "one domain" else rows[:size])
    own = [torch.cat(rows) for rows in own.values()]
    values = [gradient(model, loss, [(len(rows), rows)]) @ target if len(rows) else torch.nan for rows in own]
    return torch.tensor(values, dtype=torch.float64), torch.tensor([len(rows) for rows in own]), (target @ target)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", DRAWN)
def test_a_watched_step_equals_the_reference_on_the_samples_of_all_processes(kind, layout):
    settings, processes = LAYOUTS[layout]
    values, counts, square = expected(kind, processes)
    scale = max(values.abs().max().item(), square.item())
    found = together(watched, processes, kind, settings, {})
    for state in found:
        assert torch.equal(state["counts"], counts)
        assert error(state["values"], values, scale) < (1e-2 if layout == "bf16" else 1e-4)
        assert state["values"].numpy().tobytes() == found[0]["values"].numpy().tobytes()


def test_a_process_of_whose_samples_none_is_wanted_still_takes_part():
    values, counts, square = expected("many domains", 2, size=1)
    for state in together(watched, 2, "many domains", {}, {"size": 1}):
        assert torch.equal(state["counts"], counts) and counts.sum() < 16
        assert error(state["values"], values, square) < 1e-4


def with_targets(kind):
    model = sharded(gain=kind == "one domain")
    with isolated(model):
        probes = {str(n): measurement(model, target_batch_size=n).probes for n in (6, 1)}
    return train(model, kind, InStep(), targets=probes)


@pytest.mark.parametrize("kind", DRAWN)
def test_several_targets(kind):
    wanted = [expected(kind, 2, samples=n) for n in (6, 1)]
    for state in together(with_targets, 2, kind):
        assert state["targets"] == ["6", "1"]
        for number, (values, _, square) in enumerate(wanted):
            assert error(state["by_target"][:, number], values, square) < 1e-4


def rehearsed(kind, settings, stale):
    model = sharded(gain=kind == "one domain", **settings)
    with isolated(model):
        measured = measurement(model)
        if stale:
            estimator = InStep()
            estimator.begin(measured, stale=[0, 2], pure=kind == "one domain")
            return estimator.finish(1)
        return RehearsedStep(InStep(), ProbeLoss(model, loss), pure=kind == "one domain").measure(measured)


@pytest.mark.parametrize("stale", [False, True], ids=["rehearsed", "probed on top"])
@pytest.mark.parametrize("kind", DRAWN)
@pytest.mark.parametrize("layout", ["two processes", "three processes", "checkpointed"])
def test_probes_are_watched_in_lockstep(kind, layout, stale):
    settings, processes = LAYOUTS[layout]
    model, data = whole(gain=kind == "one domain"), mixture(sequence)
    target = gradient(model, loss, [(len(probe.domains), probe.batch) for probe in data.probes(0, 5).target()])
    for found in together(rehearsed, processes, kind, settings, stale):
        assert found.counts.tolist() == ([5, 0, 5] if stale else [5, 5, 5])
        for domain in (0, 2):
            own = [(len(p.domains), p.batch) for p in data.probes(0, 5).by_domain([domain])]
            assert (found.values[domain] - gradient(model, loss, own) @ target).abs() < 1e-4 * (target @ target)


def with_and_without(kind):
    found = []
    for estimator in (InStep(), None):
        model = sharded(gain=kind == "one domain")
        train(model, kind, estimator)
        found.append({name: g.full_tensor() for name, g in gradients(model).items() if g is not None})
        assert not any("forward" in vars(module) for module in model.modules())
    return found


@pytest.mark.parametrize("kind", DRAWN)
def test_training_is_bitwise_as_without_it(kind):
    for with_it, without in together(with_and_without, 2, kind):
        assert with_it and all(torch.equal(with_it[name], without[name]) for name in without)


def moved(kind):
    """Numbers that passes and the end of a measurement communicate, with and without a watch; and peak memory."""
    model, estimator, held = sharded(gain=kind == "one domain", reshard_after_forward=True), InStep(), []
    hold = LayerProducts.hold

    def noted(self, index):
        hold(self, index)
        held.append(sum(part.numel() for part in self._held.values()))

    LayerProducts.hold = noted
    train(model, kind, estimator)
    with isolated(model):
        estimator.begin(measurement(model), stale=(), pure=kind == "one domain")
    held.clear()
    domains, tokens = batches(kind, dist.get_rank())[0]
    with Moved() as plain:
        loss(model, tokens).mean().backward()
    with Moved() as with_watch:
        estimator.watch(domains, 1.0)
        mean = loss(model, tokens).mean()
        mean.backward()
        estimator.unwatch(mean.detach())
        estimator.finish(1)
    trained = [p for p in model.parameters() if p.requires_grad]
    blocks = [sum(p.numel() for p in block.parameters() if p.requires_grad) for block in model.blocks]
    return plain.numbers, with_watch.numbers, padded(trained), held, sum(p.numel() for p in trained), blocks


@pytest.mark.parametrize("kind", DRAWN)
def test_a_watch_moves_one_target_gradient_and_a_few_numbers_for_each_domain(kind):
    for plain, with_watch, parameters, held, in_all, blocks in together(moved, 2, kind):
        # a gather's own argument is the shard
        assert 2 * sum(with_watch["all_gather_into_tensor.default"]) == parameters
        # whether a mismatch was found, and five sums for each domain
        assert with_watch["allreduce_.default"] == [1, 5 * DOMAINS]
        assert {name: with_watch[name] for name in plain} == plain
        # the target gradient of one block and of what belongs to none
        assert held and max(held) <= in_all - min(blocks) < in_all
