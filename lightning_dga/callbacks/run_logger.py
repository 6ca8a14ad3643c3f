"""A CSV logger whose table a resumed run continues."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.core.saving import save_hparams_to_yaml
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from lightning_dga.atomic import append_whole, atomic_write
from lightning_dga.callbacks.side_files import side_file

_PLACE = ("step", "epoch")


class RunLogger(CSVLogger):
    """Lightning's ``CSVLogger``, except that an existing ``metrics.csv`` is kept and a resumed run appends to it.

    If the table cannot be written, for example because the disk is full, a warning names it and training continues;
    the missing rows are written as soon as possible. Arguments are those of ``CSVLogger``.
    """

    @property
    @override
    @rank_zero_experiment
    def experiment(self) -> "_Table":
        if not isinstance(self._experiment, _Table):
            self._experiment = _Table(self.log_dir)
        return self._experiment

    @rank_zero_only
    def cut_back(self, step: int) -> None:
        """Drops the rows that were logged after a checkpoint.

        Args:
            step: Optimizer steps done at the checkpoint. Lightning logs the first step as step 0, and test metrics at
                the end of a run at the total number of steps.
        """
        self.experiment.keep(lambda row: row["step"] < step or (row["step"] == step and _is_of_a_test(row)))

    @rank_zero_only
    def forget_test(self, step: int) -> None:
        """Drops the test metrics logged at a step, because the test is run again."""
        self.experiment.keep(lambda row: row["step"] != step or not _is_of_a_test(row))


class _Table(ExperimentWriter):
    """Keeps rows in memory until they are written; the file is only ever replaced atomically or appended to."""

    def __init__(self, log_dir: str) -> None:
        with side_file(Path(log_dir)):
            super().__init__(log_dir)
        self.hparams: dict[str, Any] = {}
        self._file = Path(log_dir) / self.NAME_METRICS_FILE
        with side_file(self._file):
            self.metrics_keys = list(self._read()[0])

    @override
    def log_hparams(self, params: dict[str, Any]) -> None:
        self.hparams.update(params)
        file = Path(self.log_dir) / self.NAME_HPARAMS_FILE
        with side_file(file):
            save_hparams_to_yaml(file, self.hparams)

    @override
    def save(self) -> None:
        if not self.metrics:
            return
        with side_file(self._file):
            new = set().union(*self.metrics).difference(self.metrics_keys)
            if new or not self._file.is_file():
                keys = sorted({*self.metrics_keys, *new})
                self._replace(keys, [*self._read()[1], *self.metrics])
                self.metrics_keys = keys
            else:
                append_whole(self._file, self._lines(self.metrics_keys, self.metrics))
            self.metrics = []

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Drops the rows of the file for which ``wanted`` is false."""
        with side_file(self._file):
            rows = self._read()[1]
            kept = [row for row in rows if wanted(row)]
            if len(kept) < len(rows):
                self._replace(self.metrics_keys, kept)

    def _replace(self, keys: list[str], rows: list[dict[str, Any]]) -> None:
        with atomic_write(self._file) as stream:
            stream.write(_csv([keys]).encode())
            stream.write(self._lines(keys, rows).encode())

    def _read(self) -> tuple[list[str], list[dict[str, Any]]]:
        """The columns, and the rows that are complete."""
        if not self._file.is_file():
            return [], []
        text = self._file.read_text(encoding="utf-8", errors="replace").replace("\0", "�")
        lines = list(io.StringIO(text, newline=""))
        whole = lines if not lines or lines[-1].endswith("\n") else lines[:-1]
        # parsed line by line: otherwise an unbalanced quote would absorb the lines after it
        columns, *rows = [next(csv.reader([line]), []) for line in whole] or [[]]
        if "step" not in columns:
            return [], []
        found = [dict(zip(columns, row, strict=True)) for row in rows if len(row) == len(columns)]
        return columns, [{**row, "step": int(row["step"])} for row in found if row["step"].isdecimal()]

    def _lines(self, keys: list[str], rows: list[dict[str, Any]]) -> str:
        return _csv([[row.get(key, "") for key in keys] for row in rows])

    @override
    def _check_log_dir_exists(self) -> None:
        """Does nothing; Lightning's version deletes the existing file."""


def _csv(rows: list[list[Any]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _is_of_a_test(row: dict[str, Any]) -> bool:
    named = [name for name, value in row.items() if value != "" and name not in _PLACE]
    return bool(named) and all(name.startswith("test/") for name in named)
