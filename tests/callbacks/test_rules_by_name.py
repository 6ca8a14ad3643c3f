"""Every rule works by its name as documented, with the default estimator, with and without a target."""

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_dga import DynamicGradientAlignment, MixtureDataModule
from lightning_dga.reweighting import ODM, RULES, DoReMi
from tests.helpers.toys import BySample, Points, mixture, trainer

PRIOR = {"domain0": 3, "domain1": 1, "domain2": 0}
NEEDS_PRIOR = {"importance", "water_filling"}


def without_target(**arguments):
    return MixtureDataModule({f"domain{i}": Points(i, 40) for i in range(3)}, batch_size=12, **arguments)


def run(callback, data, **arguments):
    torch.manual_seed(0)
    fit = trainer(callback, **arguments)
    fit.fit(BySample(), datamodule=data)
    return fit


@pytest.mark.parametrize("name", sorted(RULES))
def test_a_rule_works_by_its_name_alone(name):
    prior = {"prior": PRIOR} if name in NEEDS_PRIOR else {}
    callback, data = DynamicGradientAlignment(2, rule=name, probe_batch_size=2, **prior), mixture(batch_size=12)
    run(callback, data)
    assert callback.alignments is not None and data.weights.sum() == pytest.approx(1)
    if name == "importance":
        assert data.weights.tolist() == [0.75, 0.25, 0]


@pytest.mark.parametrize("name", sorted(NEEDS_PRIOR))
def test_a_prior_that_is_needed_is_asked_for_at_once(name):
    with pytest.raises(ValueError, match=f"`rule` '{name}' needs `prior`.*`dga-domains histogram"):
        DynamicGradientAlignment(rule=name)


@pytest.mark.parametrize("rule", ["odm", "doremi", DoReMi([0.0, 0.0, 5.0])])
def test_losses_alone_move_the_mixture_without_a_target(rule):
    callback, data = DynamicGradientAlignment(1, rule=rule, probe_batch_size=4), without_target()
    fit = run(callback, data, max_steps=8)
    losses = callback.alignments.losses
    assert losses.isfinite().all() and callback.alignments.targets == ()
    assert fit.callback_metrics["dga/loss/domain1"].item() == pytest.approx(losses[1].item(), rel=1e-5)
    assert not any(name.startswith(("dga/target", "dga/alignment")) for name in fit.callback_metrics)
    assert data.weights.max() - data.weights.min() > 1e-3
    if not isinstance(rule, str):
        assert data.weights.argmin() == 2, "its loss is below its reference, and is not to be raised"


def test_the_losses_are_those_of_the_probes():
    callback, data = DynamicGradientAlignment(6, rule=ODM(), probe_batch_size=4), without_target()
    torch.manual_seed(0)
    model = BySample()
    trainer(callback).fit(model, datamodule=data)
    model.eval()
    expected = [model.alignment_loss(probe.batch).mean().item() for probe in data.probes(0, 4).by_domain()]
    assert callback.alignments.losses.tolist() == pytest.approx(expected, rel=1e-5)
    assert callback.alignments.counts.tolist() == [4, 4, 4]


def test_two_processes_measure_the_losses_that_one_does():
    alone, expected = without_target(), DynamicGradientAlignment(3, rule="odm", probe_batch_size=5)
    run(expected, alone)
    data, callback = without_target(), DynamicGradientAlignment(3, rule="odm", probe_batch_size=5)
    data.batch_size = 6
    run(callback, data, strategy="ddp_fork", devices=2)
    torch.testing.assert_close(callback.alignments.losses, expected.alignments.losses, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(data.weights, alone.weights, rtol=1e-3, atol=1e-5)


def test_a_run_without_a_target_resumes(tmp_path):
    def made():
        return DynamicGradientAlignment(2, rule="odm", probe_batch_size=2)

    whole = without_target()
    run(made(), whole, max_steps=8)
    fit = run(made(), without_target(), max_steps=4)
    fit.save_checkpoint(tmp_path / "half.ckpt")
    rest = without_target()
    trainer(made(), max_steps=8).fit(BySample(), datamodule=rest, ckpt_path=tmp_path / "half.ckpt")
    torch.testing.assert_close(rest.weights, whole.weights, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["dga", "dga_paper", "doge", "grape"])
def test_a_rule_that_needs_a_target_says_so(name):
    with pytest.raises(MisconfigurationException, match=r"has no `target`: give .* 'odm' and 'doremi' need none"):
        run(DynamicGradientAlignment(rule=name), without_target())


@pytest.mark.parametrize("arguments", [{"rule": "static"}, {"rule": "uniform"}, {"rule": "importance", "prior": PRIOR}])
def test_a_fixed_mixture_needs_no_target(arguments):
    callback = DynamicGradientAlignment(2, **arguments)
    run(callback, without_target())
    assert callback.alignments is None


def test_an_estimator_that_sees_no_losses_is_refused_before_training():
    callback = DynamicGradientAlignment(2, rule="odm", estimator="in_step")
    with pytest.raises(MisconfigurationException, match=r"'in_step'` does not measure the loss of each domain"):
        run(callback, mixture(batch_size=12))
