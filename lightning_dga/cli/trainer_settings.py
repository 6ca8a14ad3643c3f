"""The Trainer of a run; its settings determine which callbacks and loggers of the config are used."""

from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lightning_dga.cli.config_check import accepts_none

# settings that Lightning refuses together with `barebones` unless they are left at their defaults
_BAREBONES = (
    "enable_checkpointing",
    "enable_progress_bar",
    "enable_model_summary",
    "log_every_n_steps",
    "num_sanity_val_steps",
)


def fitting_callbacks(config: DictConfig) -> list[Any]:
    """Makes the callbacks of a config, except those that Lightning refuses with the Trainer's settings."""
    trainer = config.trainer
    barebones = bool(trainer.get("barebones"))
    unwanted: set[str] = set()
    if barebones or trainer.get("enable_progress_bar") is False:
        unwanted.add("ProgressBar")
    # a smoke test of a few steps is not meant to be resumed
    if barebones or trainer.get("enable_checkpointing") is False or trainer.get("fast_dev_run"):
        unwanted.add("Checkpoint")
    nodes = [*config.callbacks.values(), *_listed(trainer.get("callbacks"))]
    made = [instantiate(node) for node in nodes if node is not None]
    # compared by name, because Lightning's two packages have separate classes
    return [callback for callback in made if unwanted.isdisjoint(kind.__name__ for kind in type(callback).__mro__)]


def make_trainer(config: DictConfig, folder: Path, callbacks: list[Any]) -> Any:
    """The Trainer of a config."""
    node = config.trainer.copy()
    OmegaConf.set_struct(node, False)
    settings = {"callbacks": callbacks, "logger": _loggers(config)}
    for name in list(node):
        unset = node[name] is None and not accepts_none(node["_target_"], name)
        if unset or name in settings or (node.get("barebones") and name in _BAREBONES):
            node.pop(name)
    if node.get("barebones"):
        settings["logger"] = None
    if node.get("default_root_dir") is None:
        settings["default_root_dir"] = str(folder)
    return instantiate(node, **settings)


def _loggers(config: DictConfig) -> Any:
    chosen = config.trainer.get("logger")
    if chosen is None:
        return [instantiate(node) for node in config.logger.values() if node is not None]
    return chosen if isinstance(chosen, bool) else [instantiate(node) for node in _listed(chosen)]


def _listed(nodes: Any) -> list[Any]:
    if nodes is None:
        return []
    return [nodes] if isinstance(nodes, DictConfig) and "_target_" in nodes else list(_values(nodes))


def _values(nodes: Any) -> Any:
    return nodes.values() if isinstance(nodes, DictConfig) else nodes
