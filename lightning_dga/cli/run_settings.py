"""Settings of a resumed run that differ from those it started with: reported, or refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from torch import nn

from lightning_dga.callbacks.checkpoints import CheckpointError, read_checkpoint
from lightning_dga.report.run_folder import CONFIG

# settings that determine the data: resuming with other data would go unnoticed and not continue the same run
_THE_DATA = frozenset(
    f"data.{name}"
    for name in (
        "_target_",
        "root",
        "target",
        "labels",
        "vocab_size",
        "context_length",
        "tokens_per_domain",
        "sample_seed",
        "target_documents",
        "target_seed",
        "cross_document_targets",
    )
)
# settings that may change on resume without a message
_FREE = ("resume", "overwrite", "test", "plan", "name", "trainer.", "logger.", "callbacks.progress.", "data.cache_dir")
_GONE = "nothing"


def changed_settings(config: DictConfig, folder: Path) -> list[str]:
    """The settings that differ from those before the run was resumed, one line per setting.

    Args:
        config: The config of the run that is about to resume.
        folder: The run folder, with the earlier config.

    Raises:
        CheckpointError: If a setting that determines the data differs.
    """
    before = _config_before(folder)
    if before is None:
        return []
    now = dict(_leaves(OmegaConf.to_container(config, resolve=True)))
    # settings interpolated from another setting are not reported in addition to it
    followed = {key for key, value in _leaves(OmegaConf.to_container(config, resolve=False)) if "${" in str(value)}
    changed = {
        key: (before.get(key, _GONE), now.get(key, _GONE))
        for key in sorted(before.keys() | now.keys(), key=str)
        # a key in only one of the two may come from another version of the configs, except for those of the data
        if (key in before and key in now) or (key.startswith("data.") and (before | now)[key] is not None)
        if before.get(key, _GONE) != now.get(key, _GONE) and not key.startswith(_FREE)
    }
    refused = [_changed(key, *values) for key, values in changed.items() if key in _THE_DATA]
    if refused:
        raise CheckpointError(
            f"A run must resume with the data that it started with: {'; '.join(refused)}. Use the settings in "
            f"{folder / CONFIG}, or start a new run with another `name`."
        )
    return [
        f"This run resumes with {_changed(key, *values)}." for key, values in changed.items() if key not in followed
    ]


def check_fits(checkpoint: Path, model: nn.Module) -> None:
    """Compares the parameters of a checkpoint with the model's.

    Raises:
        CheckpointError: If a parameter or buffer has a different shape.
    """
    saved = read_checkpoint(checkpoint).get("state_dict")
    if saved is None or checkpoint.is_dir():
        return
    # names in only one of them are left to Lightning, because a model may create parameters in its setup
    for name, tensor in model.state_dict().items():
        if name in saved and saved[name].shape != tensor.shape:
            raise CheckpointError(
                f"{checkpoint} is of another model: {name} has shape {list(saved[name].shape)} there, and "
                f"{list(tensor.shape)} here. Use the `model` and `data` settings that it was trained with."
            )


def _config_before(folder: Path) -> dict[str, Any] | None:
    try:
        before = OmegaConf.to_container(OmegaConf.load(folder / CONFIG))
    except (OSError, ValueError, yaml.YAMLError):  # the earlier config is not required to resume
        return None
    return dict(_leaves(before)) if isinstance(before, dict) and before.get("data") else None


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, node


def _changed(key: str, before: Any, now: Any) -> str:
    return f"`{key}` {now!r} instead of {before!r}"
