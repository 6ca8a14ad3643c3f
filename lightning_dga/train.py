"""The Hydra entry ``dga-train``: composes a run from ``conf/``, trains, tests, and leaves a run folder."""

import json
import math
import os
import re
import shutil
import sys
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from hydra_plugins.lightning_dga_searchpath import config_dir
from lightning_dga._lightning import MisconfigurationException, rank_zero_info, seed_everything
from lightning_dga.data.errors import DataError
from lightning_dga.distributed import leave_together
from lightning_dga.make_domains.histogram import target_histogram
from lightning_dga.planning import plan
from lightning_dga.preemption import Preempted, Preemption, newest_checkpoint, was_requeued
from lightning_dga.recorder import RunRecorder
from lightning_dga.report.run_folder import CHECKPOINTS, CONFIG, LOGS, METRICS, WEIGHTS, RunFolderError

_TRACEBACK = "HYDRA_FULL_ERROR"
# what a user's own input causes; anything else is a fault of the program and keeps its traceback
_USER_ERRORS = (
    HydraException,
    OmegaConfBaseException,
    DataError,
    RunFolderError,
    FileNotFoundError,
    MisconfigurationException,
)


# lines of Hydra's messages that say nothing to a user
_HYDRA_INTERNAL = re.compile(r"\s*(full_key: |object_type=|Config search path:|provider=|See https?://)")


def _from_json(path: str) -> DictConfig:
    return OmegaConf.create(json.loads(Path(path).read_text(encoding="utf-8")))


def _histogram(*, _root_: DictConfig) -> DictConfig | None:
    data = _root_.data
    if any(OmegaConf.is_missing(data, key) for key in ("root", "target")):
        return None  # which is told together with what else is missing
    return OmegaConf.create(target_histogram(data.root, data.target, data.target_documents, data.target_seed))


# a config may take a mapping from a file, prior='${json:histogram.json}', or count a target's documents by domain
OmegaConf.register_new_resolver("json", _from_json, replace=True)
OmegaConf.register_new_resolver("histogram", _histogram, replace=True)
# as many processes as there are devices on all machines
OmegaConf.register_new_resolver("product", lambda *factors: math.prod(factors), replace=True)


def train(config: DictConfig, folder: Path) -> dict[str, Any]:
    """Trains and tests what a config describes.

    Args:
        config: A composed ``conf/train.yaml``.
        folder: The run folder.

    Returns:
        What it wrote to ``metrics.json``; nothing where it was only planned.

    Raises:
        RunFolderError: If the folder holds a run, and the config neither resumes nor overwrites it.
    """
    if missing := OmegaConf.missing_keys(config):
        raise MissingMandatoryValue(f"The config needs a value for {', '.join(sorted(missing))}.")
    if config.plan:
        print(plan(config))
        return {}
    # a job that was queued again is the same run
    checkpoint = _prepare_folder(folder, resume=config.resume or was_requeued(), overwrite=config.overwrite)
    callbacks = [instantiate(one) for one in config.callbacks.values() if one is not None]
    with ExitStack() as stack:
        for callback in callbacks:
            if isinstance(callback, Preemption):
                stack.enter_context(callback.listening())
        try:
            metrics = _fit_and_test(config, folder, callbacks, checkpoint)
        except Preempted as end:
            if end.together:
                leave_together()
            raise
    leave_together()
    return metrics


def _fit_and_test(config: DictConfig, folder: Path, callbacks: list[Any], checkpoint: Path | None) -> dict[str, Any]:
    # what is quick to make comes first: a mistake in it shows before a long tokenisation
    recorder = RunRecorder(folder)
    trainer = instantiate(
        config.trainer,
        callbacks=[*callbacks, recorder],
        logger=[instantiate(one) for one in config.logger.values() if one is not None],
        default_root_dir=str(folder),
    )
    datamodule = instantiate(config.data)
    seed_everything(config.seed, workers=True, verbose=False)
    model = instantiate(config.model)
    if trainer.is_global_zero:
        OmegaConf.save(config, folder / CONFIG, resolve=True)
    trainer.fit(model, datamodule=datamodule, ckpt_path=checkpoint)
    if config.test:
        trainer.test(model, datamodule=datamodule, verbose=False)
    metrics = recorder.finish(trainer)
    rank_zero_info(f"Run folder: {folder}")
    return metrics


def _prepare_folder(folder: Path, *, resume: bool, overwrite: bool) -> Path | None:
    if resume:
        return newest_checkpoint(folder / CHECKPOINTS)
    present = [name for name in (WEIGHTS, METRICS, CHECKPOINTS, LOGS) if (folder / name).exists()]
    # the other processes find the folder of this very run
    if present and _is_first_process():
        if not overwrite:
            raise RunFolderError(
                f"{folder} holds a run already ({', '.join(present)}). Continue it with `resume=true`, replace it with "
                "`overwrite=true`, or choose another `name`."
            )
        for name in present:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return None


def _is_first_process() -> bool:
    # as torchrun, SLURM and Lightning tell the processes that they start; there is no Trainer yet to ask
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK"))


@hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="train")
def _run(config: DictConfig) -> None:
    train(config, Path(HydraConfig.get().runtime.output_dir))


def main() -> None:
    """Runs ``dga-train``: a user's mistake ends in one line and exit status 1."""
    sys.argv[1:] = _users_configs_first(sys.argv[1:])
    if _TRACEBACK in os.environ:
        return _run()
    # makes Hydra raise its errors, so that they are told here as ours are
    os.environ[_TRACEBACK] = "1"
    try:
        _run()
    except _USER_ERRORS as error:
        print(f"dga-train: {_one_line(error)}", file=sys.stderr)
        sys.exit(1)
    finally:
        del os.environ[_TRACEBACK]


def _users_configs_first(arguments: list[str]) -> list[str]:
    """Lets ``--config-dir DIR`` override our configs too, where Hydra only lets it extend them.

    Hydra looks there after the application's own tree; so it becomes the application's, and the search-path plugin puts
    our tree behind it.
    """
    found = list(arguments)
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name not in ("--config-dir", "-cd"):
            continue
        found[index] = f"--config-path={Path(value).absolute()}" if equals else "--config-path"
        if not equals and index + 1 < len(arguments):
            found[index + 1] = str(Path(arguments[index + 1]).absolute())
    return found


def _one_line(error: BaseException) -> str:
    where = ""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        key = str(error).rpartition("full_key: ")[2] if "full_key: " in str(error) else ""
        where = f"{key}: " if key and not where else where
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not _HYDRA_INTERNAL.match(line)]
    if isinstance(error, HydraException) and error.__cause__ is not None:
        lines.append(str(error.__cause__).splitlines()[0])
    if "submitit" in " ".join(lines) and find_spec("submitit") is None:
        lines.append("It comes with `pip install lightning-dga[slurm]`.")
    return where + " ".join(lines)


if __name__ == "__main__":
    main()
