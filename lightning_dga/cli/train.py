"""The Hydra entry ``dga-train``: composes a run from ``conf/``, trains, tests, and leaves a run folder."""

import errno
import json
import math
import os
import re
import shutil
import sys
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, InstantiationException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from hydra_plugins.lightning_dga_searchpath import config_dir
from lightning_dga._lightning import (
    MisconfigurationException,
    isolate_rng,
    rank_zero_info,
    rank_zero_warn,
    seed_everything,
)
from lightning_dga.callbacks.checkpoints import CheckpointError
from lightning_dga.callbacks.preemption import Preempted, Preemption, newest_checkpoint, was_requeued
from lightning_dga.callbacks.run_recorder import RunRecorder
from lightning_dga.callbacks.side_files import side_file
from lightning_dga.cli.config_check import check_config, closest
from lightning_dga.cli.domains.histogram import target_histogram
from lightning_dga.cli.plan import plan
from lightning_dga.cli.run_lock import sole_writer
from lightning_dga.cli.run_settings import changed_settings, check_fits
from lightning_dga.cli.trainer_settings import fitting_callbacks, make_trainer
from lightning_dga.data.errors import DataError
from lightning_dga.distributed import destroy_process_group
from lightning_dga.report import comparison, page
from lightning_dga.report.run_folder import (
    CHECKPOINTS,
    CONFIG,
    LOGS,
    METRICS,
    PAGE,
    VALIDATIONS,
    WEIGHTS,
    RunFolderError,
)

_TRACEBACK = "HYDRA_FULL_ERROR"
# errors caused by user input; any other error is a bug and keeps its traceback
_USER_ERRORS = (
    HydraException,
    OmegaConfBaseException,
    DataError,
    RunFolderError,
    CheckpointError,
    FileNotFoundError,
    MisconfigurationException,
)


# lines of Hydra's messages without information for a user
_HYDRA_INTERNAL = re.compile(r"\s*(full_key: |object_type=|Config search path:|provider=|See https?://)")


def _from_json(path: str) -> DictConfig:
    return OmegaConf.create(json.loads(Path(path).read_text(encoding="utf-8")))


def _histogram(*, _root_: DictConfig) -> DictConfig | None:
    data = _root_.data
    if any(OmegaConf.is_missing(data, key) for key in ("root", "target")):
        return None  # reported together with other missing values
    return OmegaConf.create(target_histogram(data.root, data.target, data.target_documents, data.target_seed))


# a config may take a mapping from a file, prior='${json:histogram.json}', or count a target's documents by domain
OmegaConf.register_new_resolver("json", _from_json, replace=True)
OmegaConf.register_new_resolver("histogram", _histogram, replace=True)
# a number of steps, if the Trainer's setting is one: -1 means no limit, and a fraction of an epoch is not a number
OmegaConf.register_new_resolver(
    "limit", lambda steps: steps if isinstance(steps, int) and steps > 0 else None, replace=True
)
# the world size: the number of devices on all machines
OmegaConf.register_new_resolver("product", lambda *factors: math.prod(factors), replace=True)


def train(config: DictConfig, folder: Path) -> dict[str, Any]:
    """Trains and tests according to a config.

    Args:
        config: A composed ``conf/train.yaml``.
        folder: The run folder.

    Returns:
        The contents of ``metrics.json``; empty if the run was only planned.

    Raises:
        RunFolderError: If the folder holds a run, and the config neither resumes nor overwrites it.
    """
    check_config(config)
    if missing := OmegaConf.missing_keys(config):
        raise MissingMandatoryValue(f"The config needs a value for {', '.join(sorted(missing))}.")
    if config.plan:
        print(plan(config))
        return {}
    with ExitStack() as stack:
        checkpoint = None
        if not config.trainer.get("fast_dev_run"):
            if _is_first_process():
                stack.enter_context(sole_writer(folder))
            # a requeued job continues the same run
            checkpoint = _prepare_folder(config, folder, resume=config.resume or was_requeued())
        callbacks = fitting_callbacks(config)
        for callback in callbacks:
            if isinstance(callback, Preemption):
                stack.enter_context(callback.listening())
        try:
            metrics = _fit_and_test(config, folder, callbacks, checkpoint)
        except Preempted as end:
            if end.together:
                destroy_process_group()
            raise
    destroy_process_group()
    return metrics


def _fit_and_test(config: DictConfig, folder: Path, callbacks: list[Any], checkpoint: Path | None) -> dict[str, Any]:
    # objects that are quick to make come first, so that a mistake in them shows before a long tokenisation
    recorder = RunRecorder(folder)
    dry = bool(config.trainer.get("fast_dev_run"))
    trainer = make_trainer(config, folder, callbacks if dry else [*callbacks, recorder])
    seed_everything(config.seed, workers=True, verbose=False)
    model = instantiate(config.model)
    # the data is made with isolated RNG state, so that the model's parameters, and the random numbers drawn in
    # training, do not depend on how it was made
    with isolate_rng():
        datamodule = instantiate(config.data)
    if trainer.is_global_zero and not dry:
        with side_file(folder / CONFIG):
            OmegaConf.save(config, folder / CONFIG, resolve=True)
    if checkpoint is not None:
        check_fits(checkpoint, model)
    try:
        trainer.fit(model, datamodule=datamodule, ckpt_path=checkpoint)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if checkpoint is None or recorder.has_begun:
            raise
        raise CheckpointError(f"{checkpoint} cannot be resumed with these settings: {error}") from error
    if config.test:
        trainer.test(model, datamodule=datamodule, verbose=False)
    if dry:
        rank_zero_info("`fast_dev_run`: every stage ran, and nothing was written.")
        return {}
    metrics = recorder.finish(trainer)
    if trainer.is_global_zero:
        _print_result(folder)
    return metrics


def _print_result(folder: Path) -> None:
    """Prints the result of the run and the path of its page; an error here does not fail the run."""
    try:
        print(f"\n{comparison([folder])}\n\nRun folder: {folder}")
        (folder / PAGE).write_text(page([folder]), encoding="utf-8")
        print(f"Page: {folder / PAGE}", flush=True)
    except (ImportError, OSError, RunFolderError) as error:
        print(f"No page: {error}", flush=True)


def _prepare_folder(config: DictConfig, folder: Path, *, resume: bool) -> Path | None:
    if resume and (checkpoint := newest_checkpoint(folder / CHECKPOINTS)) is not None:
        for line in changed_settings(config, folder):
            rank_zero_warn(line)
        rank_zero_info(f"Resuming from {checkpoint}.")
        return checkpoint
    # on other ranks the folder may already contain what rank 0 wrote in this run
    if not _is_first_process():
        return None
    present = [name for name in (WEIGHTS, VALIDATIONS, METRICS, CHECKPOINTS, LOGS, PAGE) if (folder / name).exists()]
    if resume:
        rank_zero_warn(f"{folder / CHECKPOINTS} has no checkpoint to resume from: the run starts over.")
    elif present and not config.overwrite:
        raise RunFolderError(
            f"{folder} already holds a run ({', '.join(present)}). Continue it with `resume=true`, replace it with "
            "`overwrite=true`, or choose another `name`."
        )
    for name in present:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return None


def _is_first_process() -> bool:
    # from the environment variables of torchrun, SLURM and Lightning, because there is no Trainer yet
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK"))


@hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="train")
def _run(config: DictConfig) -> None:
    train(config, Path(HydraConfig.get().runtime.output_dir))


def main() -> None:
    """Runs ``dga-train``; a user error gives one line and exit status 1."""
    sys.argv[1:] = _give_config_dir_precedence(sys.argv[1:])
    Plugins.instance().register(_PackageConfigsLast)
    _PackageConfigsLast.running = True
    traceback = _TRACEBACK in os.environ
    # makes Hydra raise its errors, so that they are reported here like those of this package
    os.environ[_TRACEBACK] = "1"
    try:
        _run()
    except _USER_ERRORS as error:
        if traceback:
            raise
        _end(_one_line(error))
    except OSError as error:
        # an error that names a file, or a full disk, is a problem of the user's machine
        if traceback or (error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT)):
            raise
        _end(str(error))
    finally:
        _PackageConfigsLast.running = False
        if not traceback:
            del os.environ[_TRACEBACK]


def _end(message: str) -> NoReturn:
    print(f"dga-train: {message}", file=sys.stderr)
    sys.exit(1)


class _PackageConfigsLast(SearchPathPlugin):
    """Adds this package's configs to Hydra's search path after the folder given by ``--config-dir``."""

    running = False

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        ours = f"file://{config_dir()}"
        if self.running and all(element.path not in (ours, str(config_dir())) for element in search_path.get_path()):
            search_path.append(provider="dga-train", path=ours)


def _give_config_dir_precedence(arguments: list[str]) -> list[str]:
    """Lets ``--config-dir DIR`` override this package's configs, where Hydra only lets it extend them.

    Hydra searches DIR after the application's own configs; so DIR is passed as the application's config path, and this
    package's configs are searched after it.
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
    where, hint = "", ""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        key = str(error).rpartition("full_key: ")[2] if "full_key: " in str(error) else ""
        where = f"{key}: " if key and not where else where
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not _HYDRA_INTERNAL.match(line)]
    cause = error.__cause__
    if isinstance(error, HydraException) and cause is not None:
        lines.append(str(cause).splitlines()[0])
        if isinstance(cause, OmegaConfBaseException) and isinstance(cause.parent_node, DictConfig):
            hint = closest(str(cause.key), cause.parent_node)
    if "submitit" in " ".join(lines) and find_spec("submitit") is None:
        lines.append('It comes with `pip install "lightning-dga[slurm]"`.')
    return where + " ".join(lines) + hint


if __name__ == "__main__":
    main()
