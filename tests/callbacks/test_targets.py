"""Several targets, mixtures of domains, and the repetition of data that rules are given."""

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_dga import DynamicGradientAlignment, MixtureDataModule
from lightning_dga.reweighting import DGA, DistributionReweighting, Static
from tests.helpers.reference import Compare, gradient
from tests.helpers.toys import BySample, Plain, Points, mixture, trainer

BASIS = {"first": [0.5, 0.5, 0.0], "last": [0.0, 0.0, 1.0]}
ESTIMATORS = ["backward", "finite_difference", "batched"]


def reference(module, targets, domains, k):
    """The reference's alignments, ``[k, targets]``, from the probes of each target and of all domains."""

    def of(probes):
        return gradient(module, Plain.loss, [(len(p.domains), p.batch) for p in probes])

    rows = [of([p for p in domains if p.domains[0] == row]) for row in range(k)]
    return torch.stack(rows) @ torch.stack([of(list(target)) for target in targets], 1)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_alignments_with_several_targets_are_a_matrix(estimator):
    domains = {f"domain{i}": Points(i, 30 + i) for i in range(3)}
    data = MixtureDataModule(domains, {"x": Points(1, 12), "y": Points(2, 9)}, batch_size=4, target_batch_size=5)
    callback = DynamicGradientAlignment(2, estimator=estimator, rule="grape", probe_batch_size=3)

    def expected(trainer, module):
        targets = [data.probes(0, 3, target=n).target() for n in (0, 1)]
        return reference(module, targets, list(data.probes(0, 3).by_domain()), 3)

    compare = Compare(callback, expected)
    trainer(callback, compare, max_steps=2).fit(BySample(), datamodule=data)
    ((found, wanted),) = compare.pairs
    torch.testing.assert_close(found.by_target, wanted, rtol=2e-3, atol=1e-4)
    torch.testing.assert_close(found.values, found.by_target.mean(1))
    assert found.targets == ("x", "y") and len(set(found.target_losses.tolist())) == 2
    assert callback._loop.progress.rule["targets"].sum().item() == pytest.approx(1)


@pytest.mark.parametrize("estimator", [*ESTIMATORS, "auto"])
def test_alignments_of_a_basis_are_those_of_samples_drawn_from_it(tmp_path, estimator):
    logger = CSVLogger(tmp_path)
    rule = DistributionReweighting(Static(), BASIS)
    callback = DynamicGradientAlignment(2, estimator=estimator, rule=rule, probe_batch_size=4)

    data = mixture(batch_size=32)

    def expected(trainer, module):
        mixtures = rule.mixtures(data.domain_names)
        of_mixtures = list(data.probes(0, 4, mixtures=mixtures).by_domain())
        return reference(module, [data.probes(0, 4).target()], of_mixtures, 2)

    compare = Compare(callback, expected)
    trainer(callback, compare, max_steps=2, logger=logger).fit(BySample(), datamodule=data)
    ((found, wanted),) = compare.pairs
    torch.testing.assert_close(found.values, wanted[:, 0], rtol=2e-3, atol=1e-4)
    assert data.weights.tolist() == pytest.approx([0.25, 0.25, 0.5])
    header = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"dga/alignment/first", "dga/alignment/last", "dga/weight/domain0"} <= set(header)


TARGETS = {"x": Points(1, 12), "y": Points(2, 9)}


def watched(targets, **settings):
    """The measurement of the last step, with each target complete."""
    torch.manual_seed(0)
    domains = {f"domain{i}": Points(i, 30 + i) for i in range(3)}
    data = MixtureDataModule(domains, targets, target_batch_size=12, **{"batch_size": 6, **settings})
    callback = DynamicGradientAlignment(2, estimator="in_step", rule="static", max_age=1)
    trainer(callback, max_steps=4).fit(BySample(), datamodule=data)
    return callback.alignments


@pytest.mark.parametrize("batch_size", [6, 1], ids=["many domains", "one domain"])
def test_a_step_is_watched_for_all_targets_at_once(batch_size):
    both = watched(TARGETS, batch_size=batch_size)
    assert both.targets == ("x", "y") and both.step == 3
    for number, (name, target) in enumerate(TARGETS.items()):
        alone = watched({name: target}, batch_size=batch_size)
        assert alone.targets == (name,) and alone.measured.all()
        torch.testing.assert_close(both.by_target[:, number], alone.values, rtol=1e-5, atol=1e-6)
        assert both.target_losses[number].item() == pytest.approx(alone.target_loss)
        assert torch.equal(both.counts, alone.counts)


def test_the_origin_of_a_batch_is_named_for_every_target():
    class Fails(BySample):
        def alignment_loss(self, batch):
            if self.fails and (batch[2][:, 0] == 2).all() and len(batch[2]) == 9:
                raise RuntimeError("broken")
            return super().alignment_loss(batch)

        def on_train_start(self):
            self.fails = True

    module, data = Fails(), MixtureDataModule({"a": Points(0, 30), "b": Points(1, 30)}, TARGETS, batch_size=9)
    module.fails = False
    callback = DynamicGradientAlignment(2, estimator="in_step", rule="static")
    with pytest.raises(RuntimeError, match=r"broken.*target 'y'"):
        trainer(callback).fit(module, datamodule=data)


def test_a_step_estimator_cannot_measure_mixtures():
    data = mixture(batch_size=4)
    with pytest.raises(MisconfigurationException, match="cannot measure mixtures of domains"):
        rule = DistributionReweighting(DGA(), BASIS)
        trainer(DynamicGradientAlignment(2, estimator="in_step", rule=rule)).fit(BySample(), datamodule=data)


class Note(Static):
    """Records the messages that it receives."""

    def start(self, domain_names, weights, exposure):
        self.__dict__["seen"] = [exposure]
        return weights, {}

    def update(self, weights, alignments, state, exposure):
        self.seen.append(exposure)
        return weights, state


@pytest.mark.parametrize(
    ("limits", "planned"),
    [
        ({"max_steps": 6}, 6 * 2 * 4),
        ({"max_steps": -1, "max_epochs": 2}, 2 * 6 * 4),
        ({"max_steps": 100, "max_epochs": 2}, 2 * 6 * 4),
    ],
)
def test_rules_are_told_of_repetition_and_of_the_length_of_the_run(limits, planned):
    rule = Note()
    callback = DynamicGradientAlignment(2, estimator="backward", rule=rule)
    data = mixture(batches_per_epoch=6)
    trainer(callback, accumulate_grad_batches=2, **limits).fit(Plain(), datamodule=data)
    assert {one.planned for one in rule.seen} == {planned}
    assert [int(one.seen.sum()) for one in rule.seen[:3]] == [0, 16, 32]
    assert rule.seen[0].sizes.tolist() == [40, 41, 42]


def test_a_run_without_end_has_no_planned_length():
    rule = Note()

    class Stop(Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = trainer.global_step >= 4

    callback = DynamicGradientAlignment(2, estimator="backward", rule=rule)
    trainer(callback, Stop(), max_steps=-1).fit(Plain(), datamodule=mixture())
    assert {one.planned for one in rule.seen} == {None}
