"""The Trainer's settings decide which parts of a config are used, whatever the other groups contain."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, TQDMProgressBar

from lightning_dga import DynamicGradientAlignment, Preemption
from lightning_dga.callbacks.run_logger import RunLogger
from lightning_dga.cli.train import config_dir
from lightning_dga.cli.trainer_settings import fitting_callbacks, make_trainer


def made(tmp_path, *overrides):
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("train", [*overrides, f"hydra.runtime.output_dir={tmp_path}"], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    trainer = make_trainer(config, tmp_path, fitting_callbacks(config))
    return trainer, {kind for callback in trainer.callbacks for kind in type(callback).__mro__}


def test_everything_is_there_by_default(tmp_path):
    trainer, kinds = made(tmp_path)
    assert {DynamicGradientAlignment, ModelCheckpoint, TQDMProgressBar, Preemption} <= kinds
    assert isinstance(trainer.logger, RunLogger)
    assert trainer.default_root_dir == str(tmp_path)


@pytest.mark.parametrize(
    ("override", "gone"),
    [
        ("trainer.enable_progress_bar=false", {TQDMProgressBar}),
        ("trainer.enable_checkpointing=false", {ModelCheckpoint, Preemption}),
        ("trainer.fast_dev_run=2", {Preemption}),  # Lightning has a checkpoint of its own there, and saves none
        ("trainer.barebones=true", {ModelCheckpoint, Preemption, TQDMProgressBar}),
    ],
)
@pytest.mark.parametrize("plus", ["", "+"])
def test_what_is_switched_off_is_not_made(tmp_path, override, gone, plus):
    if plus and "progress_bar" in override:
        plus = "++"  # the config has a value for it
    _, kinds = made(tmp_path, plus + override)
    assert DynamicGradientAlignment in kinds and not gone & kinds


def test_loggers(tmp_path):
    assert made(tmp_path, "trainer.logger=false")[0].loggers == []
    assert made(tmp_path, "logger=none")[0].loggers == []


def test_more_callbacks(tmp_path):
    node = "{_target_: lightning.pytorch.callbacks.LearningRateMonitor}"
    for callbacks in (f"[{node}]", f"{{lr: {node}}}"):
        assert {LearningRateMonitor, DynamicGradientAlignment} <= made(tmp_path, f"trainer.callbacks={callbacks}")[1]


def test_a_length_in_epochs(tmp_path):
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("train", ["trainer.max_steps=-1", "trainer.max_epochs=2", "trainer.val_check_interval=0.5"])
    assert config.data.batches_per_epoch is None and config.model.max_steps is None
    assert config.callbacks.checkpoint.every_n_train_steps is None
