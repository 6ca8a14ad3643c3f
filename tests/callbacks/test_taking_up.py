"""Resuming the state of the callback: an update that was due is done, and a state that does not fit is refused."""

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_dga import DynamicGradientAlignment, MixtureDataModule
from lightning_dga.reweighting import DGA, DistributionReweighting, DoReMi, Importance
from tests.helpers.toys import Plain, Points, TwoOptimizers, mixture, trainer


class Saves(Callback):
    """Writes a checkpoint at the end of a batch, before or after the callback that aligns."""

    def __init__(self, file, step):
        self.file, self.step = file, step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.file)


class Rows(Callback):
    def __init__(self):
        self.rows = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        data = trainer.datamodule
        self.rows.append((trainer.global_step, batch[2].tolist(), data.weights.tolist(), data.weights_version))


def aligner(**arguments):
    settings = {"every_n_steps": 3, "estimator": "backward", "probe_batch_size": 2, "step_size": 3.0}
    return DynamicGradientAlignment(**{**settings, **arguments})


def run(callback, *others, module=Plain, steps=12, ckpt_path=None, **arguments):
    torch.manual_seed(0)
    model, rows, data = module(), Rows(), mixture(size=20, **arguments)
    trainer(*others, callback, rows, max_steps=steps).fit(model, datamodule=data, ckpt_path=ckpt_path)
    return rows.rows, model.state_dict()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("module", "per_step"), [(Plain, 1), (TwoOptimizers, 2)], ids=["one optimizer", "two"])
@pytest.mark.parametrize("step", [6, 7], ids=["at an update", "between updates"])
def test_a_checkpoint_written_ahead_of_an_update_owes_it(tmp_path, module, per_step, workers, step):
    file, steps = tmp_path / "ahead.ckpt", 12 * per_step
    whole, parameters = run(aligner(), Saves(file, step * per_step), module=module, steps=steps)
    saved = torch.load(file, weights_only=True)["callbacks"]["DynamicGradientAlignment"]
    assert saved["updates"] == (1 if step == 6 else 2), "the checkpoint is to come before the update"
    rest, resumed = run(aligner(), module=module, steps=steps, ckpt_path=file, num_workers=workers)
    assert rest == whole[step:]
    torch.testing.assert_close(resumed, parameters, rtol=0, atol=0)
    assert whole[5][2] != whole[4][2], "the mixture must move for this to show anything"


def test_a_schedule_of_the_users_own_owes_only_what_it_asks_for(tmp_path):
    class Fifth(DynamicGradientAlignment):
        def should_update(self, step):
            return step % 5 == 0

    def made():
        return Fifth(estimator="backward", probe_batch_size=2)

    whole, _ = run(made(), Saves(tmp_path / "10.ckpt", 10), Saves(tmp_path / "11.ckpt", 11), steps=16)
    for step in (10, 11):
        assert run(made(), steps=16, ckpt_path=tmp_path / f"{step}.ckpt")[0] == whole[step:]


def saved(folder, callback, data=None):
    """A checkpoint of a short run, at ``folder / run.ckpt``."""
    fit = trainer(callback, max_steps=4)
    fit.fit(Plain(), datamodule=data or mixture())
    fit.save_checkpoint(folder / "run.ckpt")
    return folder / "run.ckpt"


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        ({"rule": "dga_paper"}, "PaperDGA"),
        ({"rule": "static"}, "Static"),
        ({"rule": "odm"}, "ODM"),
        ({"rule": DistributionReweighting(DGA(), {"x": [1, 1, 1]})}, r"DistributionReweighting\(DGA\)"),
    ],
)
def test_another_rule_is_refused_before_training(tmp_path, rule, name):
    file = saved(tmp_path, aligner())
    message = f"state is of the rule DGA, this run has {name}.* Give `rule` as in the run .*load_from_checkpoint"
    with pytest.raises(MisconfigurationException, match=message):
        trainer(aligner(step_size=None, **rule)).fit(Plain(), datamodule=mixture(), ckpt_path=file)


def test_another_rule_is_found_in_a_checkpoint_that_names_none(tmp_path):
    file = saved(tmp_path, aligner(step_size=None, rule="static"))
    checkpoint = torch.load(file, weights_only=True)
    for key in ("of", "training_steps"):
        del checkpoint["callbacks"]["DynamicGradientAlignment"][key]
    torch.save(checkpoint, file)
    with pytest.raises(MisconfigurationException, match=r"another rule, this run has DGA"):
        trainer(aligner()).fit(Plain(), datamodule=mixture(), ckpt_path=file)
    trainer(aligner(step_size=None, rule="static"), max_steps=8).fit(Plain(), datamodule=mixture(), ckpt_path=file)


def test_other_targets_are_named(tmp_path):
    def data(*names):
        return MixtureDataModule(
            {"a": Points(0, 20), "b": Points(1, 20)}, {n: Points(2, 9) for n in names}, batch_size=4
        )

    file = saved(tmp_path, aligner(), data("easy", "hard"))
    with pytest.raises(MisconfigurationException, match=r"2 targets, .* has 1: without 'hard'. Give `target` as in"):
        trainer(aligner(), max_steps=8).fit(Plain(), datamodule=data("easy"), ckpt_path=file)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("ab", "3 domains, the data module has 2: without 'c'"),
        ("abd", "3 domains, the data module has 3: without 'c' and with 'd'"),
        ("bac", "the same names in another order"),
    ],
)
def test_other_domains_are_named(names, message):
    def data(names):
        return MixtureDataModule({name: Points(0, 20) for name in names}, Points(2, 9), batch_size=4)

    callback = aligner()
    trainer(callback, max_steps=4).fit(Plain(), datamodule=data("abc"))
    with pytest.raises(MisconfigurationException, match=message):
        trainer(callback, max_steps=4).fit(Plain(), datamodule=data(names))


def test_new_settings_of_a_rule_hold_from_the_resume_on(tmp_path, caplog):
    file = saved(tmp_path, aligner(step_size=None, rule=Importance([3, 1, 0])))
    data = mixture()
    with caplog.at_level("INFO"):
        new = aligner(step_size=None, rule=Importance([0, 1, 1]))
        trainer(new, max_steps=8).fit(Plain(), datamodule=data, ckpt_path=file)
    assert data.weights.tolist() == [0, 0.5, 0.5]
    assert "settings of `rule` differ from the checkpoint's" in caplog.text


def test_a_new_reference_holds_and_the_weights_go_on(tmp_path):
    def rule(*reference):
        return aligner(step_size=None, rule=DoReMi(reference))

    file, after = saved(tmp_path, rule(0, 0, 0)), rule(9, 9, 9)
    before = torch.load(file, weights_only=True)["callbacks"]["DynamicGradientAlignment"]["rule"]
    trainer(after, max_steps=4).fit(Plain(), datamodule=mixture(), ckpt_path=file)
    state = after.state_dict()["rule"]
    assert state["reference"].tolist() == [9, 9, 9]
    torch.testing.assert_close(state["unsmoothed"], before["unsmoothed"])


def test_a_loss_scale_that_still_falls_ends_no_run():
    """Like a loss scaler that starts far above the scale that the gradients allow."""

    class Searching(Plain):
        def loss(self, batch):
            overflows = not self.training and self.trainer.precision_plugin.scaler.scale > 1
            return super().loss(batch) * (float("inf") if overflows else 1.0)

    class Scaler:
        scale = 2.0**16

        def get_scale(self):
            return self.scale

    class Falls(Callback):
        def on_fit_start(self, trainer, pl_module):
            trainer.precision_plugin.scaler = Scaler()

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            trainer.precision_plugin.scaler.scale = max(trainer.precision_plugin.scaler.scale / 2, floor)

    floor = 1.0
    callback = aligner(every_n_steps=1)
    trainer(Falls(), callback, max_steps=18).fit(Searching(), datamodule=mixture())
    assert callback.alignments.step == 18
    floor = 2.0
    with pytest.raises(FloatingPointError, match="10 alignments in a row, the last after step 25"):
        trainer(Falls(), aligner(every_n_steps=1), max_steps=40).fit(Searching(), datamodule=mixture())


def test_a_target_that_overflows_at_the_loss_scale_of_training_is_measured_at_a_lower_one():
    class Half(Plain):
        """Its gradients overflow as those of float16 do."""

        def loss(self, batch):
            loss = super().loss(batch)
            loss.register_hook(lambda gradient: torch.where(gradient.abs() > 300, torch.inf, gradient))
            return loss

    class Scale(Callback):
        def on_train_start(self, trainer, pl_module):
            trainer.precision_plugin.scaler = type("Scaler", (), {"get_scale": lambda self: 2.0**16})()

    def run(*callbacks):
        torch.manual_seed(0)
        callback = aligner(every_n_steps=1, rule="static", step_size=None)
        trainer(*callbacks, callback, max_steps=3).fit(Half(), datamodule=mixture())
        return callback.alignments.values

    torch.testing.assert_close(run(Scale()), run(), rtol=1e-5, atol=1e-7)
