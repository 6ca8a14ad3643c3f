"""Every config composes, and everything in it can be instantiated."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from torch import nn

from lightning_dga import DynamicGradientAlignment, MixtureDataModule
from lightning_dga.cli.config_check import check_config
from lightning_dga.cli.train import config_dir
from lightning_dga.cli.trainer_settings import fitting_callbacks, make_trainer
from lightning_dga.data.text import build_bins
from lightning_dga.reweighting import RULES

CHOICES = {
    group.name: sorted(file.stem for file in group.glob("*.yaml")) for group in config_dir().iterdir() if group.is_dir()
}
ONE = "{{code: 1, comments: 0, docstrings: 0, manual: 0, messages: 0, tables: 0}}"
NEEDED = {
    "data=corpora": ["data.root={corpora}", "data.target=weather"],
    "data=token_bins": ["data.root={corpora}-bins", "data.target=weather", "data.context_length=32"],
    "data=clusters": ["data.root={corpora}", "data.target=weather", "data.labels={corpora}/labels.npy"],
    "experiment=corpora": ["data.root={corpora}", "data.target=weather"],
    "callbacks=importance": [f"prior={ONE}"],
    "callbacks=water_filling": [f"prior={ONE}"],
    "callbacks=doremi": [f"callbacks.dga.rule.reference={ONE}"],
    "callbacks=dga_basis": [f"callbacks.dga.rule.basis={{{{one: {ONE}}}}}"],
    "trainer=gpu": ["trainer.accelerator=cpu"],  # no GPU where the tests run; the rest of the config is instantiated
    "trainer=ddp": ["trainer.accelerator=cpu", "trainer.devices=2"],
    "trainer=multi_node": ["trainer.accelerator=cpu", "trainer.devices=2", "trainer.num_nodes=3"],
    "trainer=fsdp2": ["trainer.accelerator=cpu", "trainer.devices=2"],
}  # fmt: skip
PARTS = {"data=text", "callbacks=default"}  # shared by the others; not to be chosen


@pytest.fixture(scope="module", autouse=True)
def bins(corpora):
    build_bins(corpora, f"{corpora}-bins", vocab_size=300)


def composed(tmp_path, corpora, *overrides):
    needed = [o.format(corpora=corpora) for choice in overrides for o in NEEDED.get(choice, [])]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose(
            "train", [*overrides, *needed, f"hydra.runtime.output_dir={tmp_path}"], return_hydra_config=True
        )
    HydraConfig.instance().set_config(config)
    return config


@pytest.mark.parametrize(
    "choice", [f"{g}={c}" for g, names in CHOICES.items() for c in names if f"{g}={c}" not in PARTS]
)
def test_it_composes_and_instantiates(tmp_path, corpora, choice):
    config = composed(tmp_path, corpora, choice)
    group = choice.partition("=")[0]
    check_config(config)
    trainer = make_trainer(config, tmp_path, fitting_callbacks(config))
    assert trainer.max_steps == config.trainer.max_steps
    assert isinstance(instantiate(config.model), nn.Module)
    if group in ("data", "experiment"):
        assert isinstance(instantiate(config.data), MixtureDataModule)


@pytest.mark.parametrize("rule", RULES)
def test_there_is_a_config_for_every_rule(tmp_path, corpora, rule):
    config = composed(tmp_path, corpora, f"callbacks={rule}")
    callbacks = [instantiate(callback) for callback in config.callbacks.values()]
    made = [c for c in callbacks if isinstance(c, DynamicGradientAlignment)]
    assert rule == "uniform" or type(made[0].rule) is RULES[rule]


def test_a_slurm_job_has_a_task_for_each_device(tmp_path, corpora):
    job = composed(tmp_path, corpora, "hydra/launcher=slurm", "trainer=multi_node").hydra.launcher
    assert (job.nodes, job.tasks_per_node, job.gpus_per_node) == (3, 2, 2)
    assert composed(tmp_path, corpora, "hydra/launcher=local").hydra.launcher.tasks_per_node == 1


def test_shards_are_spread_over_the_devices_of_all_machines(tmp_path, corpora):
    config = composed(tmp_path, corpora, "trainer=fsdp2", "trainer.num_nodes=3")
    assert config.trainer.strategy.data_parallel_size == 6


def test_the_tree_has_the_groups_of_the_house():
    assert set(CHOICES) >= {"data", "model", "callbacks", "trainer", "logger", "experiment"}
    assert {"cpu", "gpu", "ddp", "fsdp2", "multi_node"} <= set(CHOICES["trainer"])
