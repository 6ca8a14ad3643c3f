"""The configs of this package in another Hydra application, once the package is installed."""

import inspect

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from hydra_plugins.lightning_dga_searchpath import SHARED_CONFIGS, config_dir
from lightning_dga import DynamicGradientAlignment

RULES = sorted(file.stem for file in (SHARED_CONFIGS / "dga" / "callbacks").glob("*.yaml"))
NEEDED = {
    "importance": ["callbacks.dga.rule.prior={a: 1}"],
    "water_filling": ["callbacks.dga.rule.prior={a: 1}"],
    "doremi": ["callbacks.dga.rule.reference={a: 1}"],
    "dga_basis": ["callbacks.dga.rule.basis={one: {a: 1}}"],
}


@pytest.fixture
def application(tmp_path):
    files = {
        "train": "defaults: [_self_, {callbacks: default}, {trainer: default}]\n",
        "bare": "defaults: [_self_, {trainer: default}]\n",
        "nested": "defaults: [_self_, {callbacks@trainer.callbacks: default}]\n",
        "listed": "defaults: [_self_, {callbacks: [default, dga]}]\n",
        "callbacks/default": "checkpoint: null\n",
        "trainer/default": "max_epochs: 3\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(text)
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        yield lambda name, *overrides: compose(name, list(overrides))


@pytest.mark.parametrize(
    ("primary", "override", "where"),
    [
        ("train", "callbacks=dga", "callbacks"),
        ("train", "callbacks=[default,dga]", "callbacks"),
        ("bare", "+callbacks=dga", "callbacks"),
        ("nested", "callbacks@trainer.callbacks=dga", "trainer.callbacks"),
        ("listed", "trainer.max_steps=3", "callbacks"),
        ("bare", "+callbacks@callbacks.mixing=dga", "callbacks.mixing"),
    ],
)
def test_the_callback_is_chosen_as_the_applications_own_are(application, primary, override, where):
    config = application(primary, override.replace("trainer.max_steps", "+trainer.max_steps"))
    node = OmegaConf.select(config, where)
    assert isinstance(instantiate(node.dga), DynamicGradientAlignment)
    assert set(node) - {"dga"} <= {"checkpoint"}
    # with a value for everything: no key of ours is asked of the application
    assert "${" not in OmegaConf.to_yaml(config)


@pytest.mark.parametrize("rule", RULES)
def test_other_rules_stand_beside_its_own_callbacks(application, rule):
    config = application("train", f"+dga/callbacks@callbacks={rule}", *NEEDED.get(rule, []))
    assert set(config.callbacks) == {"checkpoint", "dga"}
    assert isinstance(instantiate(config.callbacks.dga), DynamicGradientAlignment)


@pytest.mark.parametrize("missing", ["trainer=ddp", "callbacks=uniform", "callbacks=doge", "callbacks=[dga,doge]"])
def test_a_config_that_it_lacks_stays_an_error(application, missing):
    with pytest.raises(HydraException):
        application("train", missing)


@pytest.mark.parametrize("group", ["model", "data", "logger", "experiment"])
def test_a_group_that_it_lacks_is_no_group(application, group):
    name = {"model": "gpt", "data": "corpora", "logger": "csv", "experiment": "demo"}[group]
    # for Hydra this is a key with a text
    assert application("train", f"+{group}={name}")[group] == name


def test_its_help_has_one_config_and_one_group_of_ours(application):
    loader = GlobalHydra.instance().config_loader()
    assert set(loader.list_groups("")) == {"callbacks", "trainer", "dga", "hydra"}
    assert loader.get_group_options("callbacks", ObjectType.CONFIG) == ["default", "dga"]
    assert loader.get_group_options("trainer") == ["default"]


def test_its_values_are_the_defaults_of_the_class(application):
    parameters = inspect.signature(DynamicGradientAlignment).parameters
    node = application("train", "callbacks=dga").callbacks.dga
    assert {name: parameters[name].default for name in node if name != "_target_"} == {
        name: value for name, value in node.items() if name != "_target_"
    }


def test_our_own_rules_are_these(application):
    own = {file.stem for file in (config_dir() / "callbacks").glob("*.yaml")}
    assert own - {"default", "uniform"} == set(RULES)
