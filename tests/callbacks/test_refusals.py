import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from lightning_dga import DynamicGradientAlignment
from lightning_dga.reweighting import DGA
from tests.helpers.toys import Plain, Points, mixture, trainer


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every_n_steps": 0}, "`every_n_steps` must be a positive integer"),
        ({"every_n_steps": 2.5}, "`every_n_steps` must be a positive integer"),
        ({"probe_batch_size": None}, "`probe_batch_size` must be a positive integer"),
        ({"estimator": "guess"}, "`estimator` 'guess' is unknown; choose one of auto, backward"),
        ({"rule": "guess"}, "`rule` 'guess' is unknown"),
        ({"ema": 2.0}, "`ema` must be in"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        DynamicGradientAlignment(**arguments)


def test_settings_beside_a_rule_object_are_refused():
    from lightning_dga.reweighting import DGA

    with pytest.raises(ValueError, match="to the rule object"):
        DynamicGradientAlignment(rule=DGA(), ema=0.5)


def test_a_run_without_a_mixture_is_refused():
    with pytest.raises(MisconfigurationException, match=r"has no data module. Call `trainer.fit\(model, datamodule="):
        trainer(DynamicGradientAlignment()).fit(Plain(), DataLoader(Points(0, 9), batch_size=3))


class Manual(Plain):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        optimizer.step()


def test_a_training_step_that_optimizes_by_itself_is_not_run_as_a_loss():
    with pytest.raises(MisconfigurationException, match="optimizes manually"):
        trainer(DynamicGradientAlignment()).fit(Manual(), datamodule=mixture())


def test_a_module_with_nothing_to_train_is_refused():
    with pytest.raises(MisconfigurationException, match="Plain has no trainable parameter"):
        trainer(DynamicGradientAlignment()).fit(Plain().requires_grad_(False), datamodule=mixture())


def test_manual_optimization_works_with_a_loss():
    callback = DynamicGradientAlignment(every_n_steps=2, loss_fn=lambda module, batch: module.loss(batch))
    trainer(callback).fit(Manual(), datamodule=mixture())
    assert callback.alignments.step == 6


@pytest.mark.parametrize("strategy", ["FSDPStrategy", "DeepSpeedStrategy"])
def test_a_strategy_that_shards_in_another_way_is_refused(strategy):
    other = type(strategy, (), {})()
    message = rf"does not support {strategy}: .* `ModelParallelStrategy` with `fully_shard` \(FSDP2\)"
    with pytest.raises(MisconfigurationException, match=message):
        DynamicGradientAlignment().setup(_WithData(other), Plain(), "fit")


class _WithData:
    """A trainer that already has its data module."""

    callbacks = ()

    def __init__(self, strategy):
        self.datamodule, self.strategy = mixture(), strategy


def test_two_of_them_are_refused():
    class Mine(DynamicGradientAlignment):
        pass

    with pytest.raises(MisconfigurationException, match="several DynamicGradientAlignment callbacks"):
        trainer(DynamicGradientAlignment(), Mine()).fit(Plain(), datamodule=mixture())


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_it_leaves_other_stages_alone(stage):
    class Evaluated(Plain):
        def validation_step(self, batch, batch_idx):
            self.log("loss", self.loss(batch))

        test_step = validation_step

        def predict_step(self, batch, batch_idx):
            return self.layers(batch[0])

    callback = DynamicGradientAlignment()
    fit = trainer(callback)
    getattr(fit, stage)(Evaluated(), DataLoader(Points(0, 9), batch_size=3))
    assert callback.alignments is None and not any(name.startswith("dga/") for name in fit.callback_metrics)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every_n_steps": "abc"}, r"`every_n_steps` must be a positive integer, got 'abc' \(str\)"),
        ({"estimator": "backwards"}, "Did you mean 'backward'"),
        ({"rule": DGA}, r"`rule` is the class DGA; give an object, such as `DGA\(...\)`"),
        ({"rule": "dgaa"}, "Did you mean 'dga'"),
        ({"rule": None}, "`rule` must be a name or a Rule"),
        ({"estimator": 3}, "`estimator` must be a name or an Estimator"),
        ({"step_size": "big"}, "`step_size` must be a finite number"),
        ({"loss_fn": 3}, "`loss_fn` must be a function"),
        ({"parameters": 3}, "`parameters` 3 is not a regular expression"),
    ],
)
def test_arguments_of_a_wrong_kind_are_named_when_it_is_made(arguments, message):
    with pytest.raises(ValueError, match=message):
        DynamicGradientAlignment(**arguments)


def test_a_checkpoint_of_another_mixture_is_refused(tmp_path):
    fit = trainer(DynamicGradientAlignment(every_n_steps=2))
    fit.fit(Plain(), datamodule=mixture(k=3))
    fit.save_checkpoint(tmp_path / "three.ckpt")
    with pytest.raises(ValueError, match=r"other domains than this data module \(domain 'domain2' is gone\)"):
        trainer(DynamicGradientAlignment()).fit(Plain(), datamodule=mixture(k=2), ckpt_path=tmp_path / "three.ckpt")


def test_a_callback_of_another_mixture_is_refused():
    callback = DynamicGradientAlignment(every_n_steps=2)
    trainer(callback).fit(Plain(), datamodule=mixture(k=3))
    with pytest.raises(MisconfigurationException, match="holds the weights of 3 domains"):
        trainer(callback).fit(Plain(), datamodule=mixture(k=2))


def test_a_state_of_a_later_format_is_refused():
    with pytest.raises(ValueError, match="Upgrade lightning-dga"):
        DynamicGradientAlignment().load_state_dict({"format": 99})


@pytest.mark.parametrize("flag", ["fast_dev_run", "overfit_batches", "barebones"])
def test_the_trainers_debugging_modes_work(flag):
    arguments = {"fast_dev_run": {"fast_dev_run": 3}, "overfit_batches": {"overfit_batches": 2, "max_steps": 5}}.get(
        flag, {"barebones": True, "logger": None, "enable_progress_bar": None, "enable_checkpointing": None,
               "enable_model_summary": None, "max_steps": 4}
    )  # fmt: skip
    callback = DynamicGradientAlignment(every_n_steps=2)
    trainer(callback, **arguments).fit(Plain(), datamodule=mixture())
    assert callback.alignments is not None


def test_the_modules_transfer_hooks_are_used():
    class Scaled(Plain):
        transferred = 0

        def on_after_batch_transfer(self, batch, dataloader_idx):
            Scaled.transferred += 1
            x, y, number = batch
            return 10 * x, y, number

    def loss(module, batch):
        assert batch[0].abs().max() > 8
        return module.loss(batch)

    trainer(DynamicGradientAlignment(2, estimator="backward", loss_fn=loss), max_steps=2).fit(
        Scaled(), datamodule=mixture()
    )
    # a chunk of the target before training, 2 batches, 2 chunks of the target's 6 samples, 3 domains
    assert Scaled.transferred == 1 + 2 + 2 + 3
    assert torch.is_grad_enabled()


def test_a_model_that_stays_not_finite_ends_the_run():
    class Lost(Plain):
        def loss(self, batch):
            return super().loss(batch) * (float("nan") if not self.training else 1.0)

    callback = DynamicGradientAlignment(1, estimator="backward")
    with pytest.raises(FloatingPointError, match="10 alignments in a row"):
        trainer(callback, max_steps=20).fit(Lost(), datamodule=mixture())
