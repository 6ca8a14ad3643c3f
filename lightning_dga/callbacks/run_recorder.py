"""Records a run in its folder: the mixture's history during training, and the final metrics."""

import csv
import io
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from typing_extensions import override

from lightning_dga._lightning import Callback, rank_zero_warn
from lightning_dga.atomic import append_whole, atomic_write, write_json
from lightning_dga.callbacks.dynamic_gradient_alignment import DynamicGradientAlignment
from lightning_dga.callbacks.run_logger import RunLogger
from lightning_dga.callbacks.side_files import side_file
from lightning_dga.report.run_folder import METRICS, VALIDATIONS, WEIGHTS, read_rows, weights_header

_VALIDATION, _TEST = "val/target_loss", "test/target_loss"
_VALIDATIONS_HEADER = ["step", _VALIDATION]


class RunRecorder(Callback):
    """Writes ``weights.csv`` and ``validations.csv`` during training, and ``metrics.json`` when it is finished.

    A resumed run truncates the first two at the checkpoint's step and continues from there. If a file cannot be
    written, for example because the disk is full, a warning names it and training continues. Place this callback after
    the one that sets the weights.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._has_begun = False
        self._started = 0.0
        self._version = -1
        self._step = -1
        self._columns: list[str] = []
        self._state: dict[str, Any] = {"seconds": 0.0, "validations": []}

    @property
    def has_begun(self) -> bool:
        """Whether training has begun and the checkpoint, if any, is fully restored."""
        return self._has_begun

    @override
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._has_begun = True
        self._started = time.perf_counter()
        if not trainer.is_global_zero:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._resume_validations(trainer.global_step)
        self._resume_weights(trainer)
        for logger in _logs(trainer):
            # rows are numbered by batches that ended in a step; `global_step` counts the steps of all optimizers
            logger.cut_back(trainer.global_step // max(len(trainer.optimizers), 1))

    @override
    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        for logger in _logs(trainer):
            logger.forget_test(trainer.global_step)

    @override
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        alignments = _alignments(trainer)
        measured = alignments is not None and alignments.step > self._step
        if trainer.is_global_zero and (measured or trainer.datamodule.weights_version != self._version):
            self._append(trainer)

    @override
    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.sanity_checking or _VALIDATION not in trainer.callback_metrics:
            return
        row = [trainer.global_step, float(trainer.callback_metrics[_VALIDATION])]
        self._state = {**self._state, "validations": [*self._state["validations"], row]}
        if trainer.is_global_zero and trainer.state.fn == "fit":
            with side_file(self.folder / VALIDATIONS):
                append_whole(self.folder / VALIDATIONS, _lines([row]))

    @override
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._state = {**self._state, "seconds": self._seconds()}
        self._started = 0.0

    @override
    def state_dict(self) -> dict[str, Any]:
        return {**self._state, "seconds": self._seconds()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._state = dict(state_dict)

    def finish(self, trainer: Any) -> dict[str, Any]:
        """Writes ``metrics.json`` from the trainer's metrics, and returns its contents."""
        data = trainer.datamodule
        per_sample = getattr(data, "tokens_per_sample", None)
        counts = data.samples_seen * (per_sample or 1)
        # if there was nothing left to train, training has not begun
        validations = self._known_validations(trainer.global_step) if trainer.is_global_zero else []
        callback = _callback(trainer)
        metrics = {
            "steps": trainer.global_step,
            _VALIDATION: validations[-1][1] if validations else None,
            f"{_VALIDATION}/best": min(loss for _, loss in validations) if validations else None,
            f"{_VALIDATION}/history": validations,
            _TEST: float(trainer.callback_metrics[_TEST]) if _TEST in trainer.callback_metrics else None,
            "unit": "tokens" if per_sample else "samples",
            "tokens": dict(zip(data.domain_names, counts.tolist(), strict=True)),
            "epochs": dict(zip(data.domain_names, _rounded(data.epochs_seen.tolist()), strict=True)),
            "weights": dict(zip(data.domain_names, data.weights.tolist(), strict=True)),
            "wall_seconds": round(self._state["seconds"], 2),
            "align_seconds": round(callback.seconds, 2) if callback is not None else 0.0,
        }
        if trainer.is_global_zero:
            with side_file(self.folder / METRICS):
                write_json(self.folder / METRICS, metrics)
        return metrics

    def _seconds(self) -> float:
        running = time.perf_counter() - self._started if self._started else 0.0
        return float(self._state["seconds"]) + running

    def _resume_validations(self, step: int) -> None:
        known = self._known_validations(step) if step else []
        self._state = {**self._state, "validations": known}
        with side_file(self.folder / VALIDATIONS), atomic_write(self.folder / VALIDATIONS) as file:
            file.write(_lines([_VALIDATIONS_HEADER, *known]).encode())

    def _known_validations(self, step: int) -> list[list[Any]]:
        """Validations up to a step: from the checkpoint, and those run at its step after it was taken."""
        known = {}
        with side_file(self.folder / VALIDATIONS):
            known = {int(row[0]): float(row[1]) for row in self._rows(VALIDATIONS, _VALIDATIONS_HEADER)}
        known |= {int(at): float(loss) for at, loss in self._state["validations"]}
        return [[at, known[at]] for at in sorted(known) if at <= step]

    def _resume_weights(self, trainer: Any) -> None:
        domains, step = trainer.datamodule.domain_names, trainer.global_step
        self._columns = weights_header(domains)
        header, rows = self._columns, list[list[str]]()
        if step:
            with side_file(self.folder / WEIGHTS):
                header, rows = self._weights_rows()
        # the mixture may have other domains now: columns of removed domains are kept
        gone = [name.removeprefix("weight/") for name in header if name.startswith("weight/")]
        self._columns = weights_header((*domains, *(domain for domain in gone if domain not in domains)))
        kept = [dict(zip(header, row, strict=True)) for row in rows if int(row[0]) <= step]
        with side_file(self.folder / WEIGHTS), atomic_write(self.folder / WEIGHTS) as file:
            file.write(_lines([self._columns, *(self._cells(row) for row in kept)]).encode())
        if kept and gone == list(domains):
            self._step, self._version = int(kept[-1]["step"]), int(kept[-1]["version"])
        else:
            self._append(trainer)

    def _append(self, trainer: Any) -> None:
        alignments, weights = _alignments(trainer), trainer.datamodule.weights.tolist()
        fresh = alignments is not None and alignments.step > self._step
        # alignments of basis distributions do not belong to any domain
        of_domains = alignments is not None and fresh and len(alignments.values) == len(weights)
        values: Iterable[Any] = alignments.values.tolist() if of_domains else [""] * len(weights)
        self._step, self._version = trainer.global_step, trainer.datamodule.weights_version
        names = weights_header(trainer.datamodule.domain_names)
        row = dict(zip(names, [self._step, self._version, *weights, *values], strict=True))
        with side_file(self.folder / WEIGHTS):
            append_whole(self.folder / WEIGHTS, _lines([self._cells(row)]))

    def _cells(self, row: Mapping[str, Any]) -> list[Any]:
        # a domain that was not in the mixture at that step had weight 0
        return [row.get(name, 0.0 if name.startswith("weight/") else "") for name in self._columns]

    def _weights_rows(self) -> tuple[list[str], list[list[str]]]:
        path = self.folder / WEIGHTS
        if not path.is_file():
            return self._columns, []
        header, rows, left_out = read_rows(path)
        if header[:2] != self._columns[:2]:
            rank_zero_warn(f"{path} is damaged: its rows are lost, and it is written again from this step on.")
            return self._columns, []
        self._warn_of_damage(path, left_out)
        return header, rows

    def _rows(self, name: str, header: list[str]) -> list[list[str]]:
        path = self.folder / name
        if not path.is_file():
            return []
        found, rows, left_out = read_rows(path)
        self._warn_of_damage(path, left_out)
        return rows if found == header else []

    def _warn_of_damage(self, path: Path, left_out: int) -> None:
        if left_out:
            rank_zero_warn(f"{path} had {left_out} damaged row{'s' * (left_out > 1)}; they are dropped.")


def _lines(rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _logs(trainer: Any) -> list[RunLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, RunLogger)]


def _callback(trainer: Any) -> DynamicGradientAlignment | None:
    return next((c for c in trainer.callbacks if isinstance(c, DynamicGradientAlignment)), None)


def _alignments(trainer: Any) -> Any:
    callback = _callback(trainer)
    return callback.alignments if callback is not None else None


def _rounded(values: list[float]) -> list[float | None]:
    return [None if math.isnan(value) else round(value, 2) for value in values]
