"""What one watched step gives: several targets at once, few samples of many domains, and domains probed on top."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lightning_dga.alignment import EstimatorRefusal, InStep, Measurement, ProbeLoss, isolated
from lightning_dga.alignment.estimators.self_test import RehearsedStep
from lightning_dga.core.alignments import Alignments
from tests.helpers.held import Held, output_loss, sequences
from tests.helpers.reference import gradient
from tests.helpers.toys import Plain, Points, mixture
from tests.helpers.uses import Block


def measurement(model, probes, loss=output_loss):
    return Measurement(model, ProbeLoss(model, loss), list(model.parameters()), probes, len(probes.domains), step=1)


def step(estimator, measured, batches, **settings):
    """One watched step over ``(domains, samples)`` batches, each weighted as under gradient accumulation."""
    with isolated(measured.module):
        estimator.begin(measured, **{"stale": (), "pure": False, **settings})
    for domains, samples in batches:
        estimator.watch(np.asarray(domains), 1 / len(batches))
        loss = output_loss(measured.module, [samples]).mean() / len(batches)
        loss.backward()
        estimator.unwatch(loss.detach())
    measured.module.zero_grad()
    return estimator.finish(3)


def expected(model, probes, batches, k):
    """``[k]`` alignments by definition with the probes' target, and the number of samples of each domain."""
    target = gradient(model, output_loss, [(len(probe.domains), probe.batch) for probe in probes.target()])
    domains = torch.tensor([domain for own, _ in batches for domain in own])
    samples = torch.cat([samples for _, samples in batches])
    values = torch.full((k,), torch.nan, dtype=torch.float64)
    for domain in domains.unique().tolist():
        own = samples[domains == domain]
        values[domain] = gradient(model, output_loss, [(len(own), [own])]) @ target
    return values, torch.bincount(domains, minlength=k)


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5, equal_nan=True)


def batch(domains, **settings):
    return domains, sequences(1, len(domains), **settings).domains[0]


BATCHES = {
    "many domains": [[0, 1, 1, 2], [2, 0, 2, 0]],
    "one domain": [[1, 1, 1], [0, 0, 0]],
    "both": [[2, 2, 2], [1, 0, 2]],
}


@pytest.mark.parametrize("kind", BATCHES)
def test_one_watch_measures_every_target(kind):
    model, probes = Block(), sequences(n=4)
    batches = [batch(domains) for domains in BATCHES[kind]]
    other = replace(probes, aim=torch.randn(3, 6, 4) - 1)
    measured = measurement(model, probes)
    found = step(InStep(), measured, batches, pure=kind == "one domain", targets={"a": probes, "b": other, "c": probes})
    assert found.targets == ("a", "b", "c") and found.step == 3
    for number, own in enumerate([probes, other, probes]):
        values, counts = expected(model, own, batches, 3)
        close(found.by_target[:, number], values)
        assert torch.equal(found.counts, counts)
    close(found.values, found.by_target.mean(1))
    assert found.target_losses[0] == found.target_losses[2] != found.target_losses[1]


def test_a_further_target_takes_one_more_pass_and_no_more_of_the_domains():
    model, probes = Block(), sequences(n=4)
    estimator, measured = InStep(), measurement(model, probes)
    runs = []
    for names in ("a", "ab", "abcd"):
        before = measured.loss.runs
        step(estimator, measured, [batch([0, 1, 1])], stale=[2], targets=dict.fromkeys(names, probes))
        runs.append(measured.loss.runs - before)
    # the first measurement also makes the plan and rehearses the step
    assert runs[1:] == [2 + 1, 4 + 1]


def test_a_target_whose_gradient_is_not_finite_leaves_no_measurement():
    model, probes = Block(), sequences(n=4)
    broken = replace(probes, aim=torch.full((2, 6, 4), torch.inf))
    measured = measurement(model, probes)
    assert step(InStep(), measured, [batch([0, 1])], targets={"a": probes, "b": broken}) is None
    assert not any("forward" in vars(module) for module in model.modules())


def test_few_samples_of_many_domains_are_exact_for_what_was_seen_and_pool_over_steps():
    k = 40
    model, probes = Block(), sequences(k, 4, width=4)
    random = np.random.default_rng(0)
    batches = [batch(random.integers(k, size=6).tolist()) for _ in range(8)]
    estimator, pooled, counts = InStep(), torch.zeros(k, dtype=torch.float64), torch.zeros(k)
    for one in batches:
        found = step(estimator, measurement(model, probes), [one])
        values, seen = expected(model, probes, [one], k)
        assert torch.equal(found.counts, seen) and seen.sum() == 6
        close(found.values, values)
        pooled += (found.values * found.counts).nan_to_num()
        counts += found.counts
    values, seen = expected(model, probes, batches, k)
    assert torch.equal(counts.long(), seen) and (seen == 0).any() and (seen > 1).any()
    close(torch.where(counts > 0, pooled / counts, torch.nan), values)


def test_no_more_samples_are_measured_than_a_probe_has():
    model, probes = Block(), sequences(n=2)
    found = step(InStep(), measurement(model, probes), [batch([0, 0, 0, 1]), batch([0, 1, 1, 1])])
    assert found.counts.tolist() == [2, 2, 0]


@pytest.mark.parametrize("pure", [False, True])
def test_domains_are_probed_on_top(pure):
    model, probes = Block(), sequences(6, 4, most=5)
    batches = [batch([3, 3, 3])] if pure else [batch([0, 3, 3])]
    other = replace(probes, aim=torch.randn(3, 6, 4) - 1)
    measured = measurement(model, probes)
    stale = np.array([1, 2, 5])
    found = step(InStep(), measured, batches, stale=stale, pure=pure, targets={"a": probes, "b": other})
    probed = [(probe.domains.tolist(), probe.batch[0]) for probe in probes.by_domain(stale)]
    for number, own in enumerate([probes, other]):
        values, counts = expected(model, own, [*batches, *probed], 6)
        close(found.by_target[:, number], values)
        assert torch.equal(found.counts, counts)


def test_many_domains_are_probed_in_as_many_passes_as_their_samples_fill_batches():
    model, probes = Block(), sequences(60, 2, most=20)
    estimator, measured = InStep(), measurement(model, probes)
    step(estimator, measured, [batch([0, 1])])
    before = measured.loss.runs
    found = step(estimator, measured, [batch([0, 1])], stale=range(10, 50))
    # one pass is the target's
    assert measured.loss.runs - before == 1 + 40 * 2 // 20
    assert found.counts.tolist() == [1, 1, *[0] * 8, *[2] * 40, *[0] * 10]


def test_the_self_test_passes_where_a_domain_is_smaller_than_its_probe():
    class BySample(Plain):
        def alignment_loss(self, batch):
            return ((self.layers(batch[0]) - batch[1]) ** 2).squeeze(1)

    data, model = mixture(batch_size=12), BySample().eval()
    data = type(data)({"small": Points(0, 3), "large": Points(1, 40)}, Points(2, 12), batch_size=12)
    loss = ProbeLoss(model, lambda module, batch: module.alignment_loss(batch))
    measured = Measurement(model, loss, list(model.parameters()), data.probes(0, 8), 2, step=1)
    found = RehearsedStep(InStep(), loss, pure=False).measure(measured)
    assert found.counts.tolist() == [3, 8]


def test_samples_that_do_not_count_take_no_place():
    """Padding, which gives ranks equally many samples, has domain -1."""
    model, probes = Block(), sequences(n=2)
    domains, samples = batch([0, 2, 2, 1])
    padded = np.array([0, -1, -1, 1])
    found = step(InStep(), measurement(model, probes), [(padded, samples), (domains, samples)])
    assert found.counts.tolist() == [2, 2, 2]


def test_a_step_that_holds_few_of_a_quarter_of_a_million_domains():
    k = 262_144
    model, probes = Block(), Held(torch.zeros(1, 1, 6, 4).expand(k, 2, 6, 4), torch.randn(5, 6, 4))

    class Few:
        """Probes of which only the first few domains are ever read."""

        size, samples, target_samples, batch_size = 2, 2 * k, 5, 100
        target = probes.target

        def mixed(self, only=None, most=None, *, in_turn=False):
            return probes.mixed(list(range(4)) if only is None else only, most, in_turn=in_turn)

        def by_domain(self, only):
            return replace(probes, domains=probes.domains[: max(only) + 1]).by_domain(only)

    measured = Measurement(model, ProbeLoss(model, output_loss), list(model.parameters()), Few(), k, step=1)
    found = step(InStep(), measured, [batch([0, k - 1, 5, 5])], stale=np.array([7, k - 2]))
    assert isinstance(found, Alignments)
    assert found.measured.nonzero().flatten().tolist() == [0, 5, 7, k - 2, k - 1]


def compiled():
    """A model, and a list of the times that its code is compiled or run."""
    model, noted = Block(), []

    def backend(graph, _):
        noted.append("compiled")
        return lambda *inputs: (noted.append("run"), graph(*inputs))[1]

    model.compile(backend=backend)
    return model, noted


def test_a_compiled_model_is_watched_eagerly_if_asked_and_not_compiled_again():
    model, noted = compiled()
    probes, batches = sequences(n=4), [batch([0, 1, 1, 2]), batch([2, 2, 0, 0])]
    output_loss(model, [batches[0][1]]).mean().backward()
    model.zero_grad()
    before, estimator = noted.copy(), InStep(eager=True)
    assert "compiled" in before and "run" in before
    for _ in range(2):
        found = step(estimator, measurement(model, probes), batches)
        plain = Block()
        plain.load_state_dict(model.state_dict())
        values, counts = expected(plain, probes, batches, 3)
        close(found.values, values)
        assert torch.equal(found.counts, counts)
    assert noted == before
    with isolated(model):
        estimator.begin(measurement(model, probes), stale=(), pure=False)
    estimator.watch(np.array(batches[0][0]), 1.0)
    output_loss(model, [batches[0][1]]).mean().backward()
    estimator.unwatch(torch.zeros(()))
    assert noted == before
    # also before the measurement is closed, as for a validation in between
    output_loss(model, [batches[0][1]])
    assert noted == [*before, *(one for one in before if one == "run")]
    estimator.abandon()


def test_a_compiled_model_is_refused_else_with_what_to_do_unless_batches_are_of_one_domain():
    model, _ = compiled()
    probes = sequences(n=4)
    with pytest.raises(EstimatorRefusal, match=r"`pure_batches=True`.*InStep\(eager=True\)"):
        step(InStep(), measurement(model, probes), [batch([0, 1])])
    batches = [batch([1, 1]), batch([0, 0])]
    plain = Block()
    plain.load_state_dict(model.state_dict())
    close(step(InStep(), measurement(model, probes), batches, pure=True).values, expected(plain, probes, batches, 3)[0])
