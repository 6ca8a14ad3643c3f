"""Errors in a config are reported by key before anything is created from it."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from lightning_dga._lightning import MisconfigurationException
from lightning_dga.cli.config_check import check_config
from lightning_dga.cli.train import config_dir


def check(tmp_path, *overrides):
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("train", [*overrides, f"hydra.runtime.output_dir={tmp_path}"], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    check_config(config)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("trainer.max_steps=abc", "`trainer.max_steps` must be an integer, got 'abc'"),
        ("trainer.max_steps=1.5", "`trainer.max_steps` must be an integer, got 1.5"),
        ("trainer.limit_val_batches=few", "`trainer.limit_val_batches` must be an integer or a number or null"),
        ("trainer.deterministic=abc", "`trainer.deterministic` must be true or false or 'warn' or null"),
        ("trainer.enable_progress_bar=nope", "`trainer.enable_progress_bar` must be true or false"),
        ("trainer.precision=17", "`trainer.precision` must be"),
        ("+trainer.max_stps=3", r"`trainer.max_stps` is not an argument of .*Trainer. Did you mean `max_steps`"),
        ("seed=abc", "`seed` must be an integer, got 'abc'"),
        ("seed=null", "`seed` must be an integer, got None"),
        ("seed=-1", "`seed` must be between 0 and 4294967295"),
        ("resume=yes_please", "`resume` must be true or false, got 'yes_please'"),
        ("overwrite=1", "`overwrite` must be true or false, got 1"),
        ("data.batch_size=big", "`data.batch_size` must be an integer"),
        ("data.batch_size=-1", "`batch_size`"),
        ("data.num_workers=-2", "`num_workers`"),
        ("data.sampling=quotas", "`sampling`"),
        ("+data.pure_batchs=true", "Did you mean `pure_batches`"),
        ("model.d_model=wide", "`model.d_model` must be an integer"),
        ("callbacks.dga.every_n_steps=often", "`callbacks.dga.every_n_steps` must be"),
        ("+callbacks.dga.alignment_emma=1", "Did you mean `alignment_ema`"),
        ("callbacks.progress.refresh_rate=often", "`callbacks.progress.refresh_rate` must be an integer"),
        ("+logger.csv.flush_logs_every_n_steps=x", "`logger.csv.flush_logs_every_n_steps` must be an integer"),
        ("+data.root=123", r"`data.root` must be a string or a path, got 123. Quote it"),
    ],
)
def test_a_wrong_value_is_told_by_its_key(tmp_path, override, told):
    data = ["data=corpora"] if "root" in override else []
    with pytest.raises(MisconfigurationException, match=told):
        check(tmp_path, *data, override)


@pytest.mark.parametrize(
    "override",
    [
        "trainer.limit_val_batches=0.5",
        "+trainer.limit_val_batches=2",
        "+trainer.fast_dev_run=true",
        "trainer.fast_dev_run=3",
        "trainer.deterministic=warn",
        "trainer.precision=bf16-mixed",
        "trainer.max_time=00:00:00:05",
        "trainer.gradient_clip_val=1",
        "+data.pure_batches=true",
        "callbacks.dga.every_n_steps=null",
        "+anything=of_the_users_own",
    ],
)
def test_a_right_value_passes(tmp_path, override):
    check(tmp_path, override)


def test_nothing_is_computed_for_it(tmp_path):
    # the prior of this recipe counts a corpus, of which there is none
    check(tmp_path, "experiment=corpora", "data.root=/nowhere", "data.target=2024")
