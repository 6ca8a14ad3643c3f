"""What a run leaves in its folder: the mixture's history while it trains, and its figures at the end."""

import csv
import json
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from typing_extensions import override

from lightning_dga._lightning import Callback
from lightning_dga.callback import DynamicGradientAlignment
from lightning_dga.report.run_folder import METRICS, WEIGHTS, weights_header

_VALIDATION, _TEST = "val/target_loss", "test/target_loss"


class RunRecorder(Callback):
    """Writes ``weights.csv`` during training, and ``metrics.json`` when :meth:`finish` is called.

    A resumed run cuts ``weights.csv`` back to the checkpoint's step and goes on from there. Put it behind the callback
    that sets the weights.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._started = 0.0
        self._version = -1
        self._step = -1
        self._state: dict[str, Any] = {"seconds": 0.0, "validations": []}

    @override
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._started = time.perf_counter()
        if not trainer.is_global_zero:
            return
        kept = self._rows_until(trainer.global_step) if trainer.global_step else []
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._weights_file("w") as file:
            csv.writer(file).writerows([weights_header(trainer.datamodule.domain_names), *kept])
        if kept:
            self._step, self._version = int(kept[-1][0]), int(kept[-1][1])
        else:
            self._append(trainer)

    @override
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        alignments = _alignments(trainer)
        measured = alignments is not None and alignments.step > self._step
        if trainer.is_global_zero and (measured or trainer.datamodule.weights_version != self._version):
            self._append(trainer)

    @override
    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking and _VALIDATION in trainer.callback_metrics:
            loss = float(trainer.callback_metrics[_VALIDATION])
            self._state = {**self._state, "validations": [*self._state["validations"], [trainer.global_step, loss]]}

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
        """Writes ``metrics.json`` from what the trainer has measured, and returns it."""
        data = trainer.datamodule
        per_sample = getattr(data, "tokens_per_sample", None)
        counts = data.samples_seen * (per_sample or 1)
        validations = self._state["validations"]
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
            (self.folder / METRICS).write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        return metrics

    def _seconds(self) -> float:
        running = time.perf_counter() - self._started if self._started else 0.0
        return float(self._state["seconds"]) + running

    def _append(self, trainer: Any) -> None:
        alignments, weights = _alignments(trainer), trainer.datamodule.weights.tolist()
        fresh = alignments is not None and alignments.step > self._step
        # the alignments of basis distributions are no domain's
        of_domains = alignments is not None and fresh and len(alignments.values) == len(weights)
        values: Iterable[Any] = alignments.values.tolist() if of_domains else [""] * len(weights)
        self._step, self._version = trainer.global_step, trainer.datamodule.weights_version
        with self._weights_file("a") as file:
            csv.writer(file).writerow([self._step, self._version, *weights, *values])

    def _rows_until(self, step: int) -> list[list[str]]:
        if not (self.folder / WEIGHTS).is_file():
            return []
        with self._weights_file("r") as file:
            return [row for row in list(csv.reader(file))[1:] if int(row[0]) <= step]

    def _weights_file(self, mode: str) -> Any:
        return (self.folder / WEIGHTS).open(mode, newline="", encoding="utf-8")


def _callback(trainer: Any) -> DynamicGradientAlignment | None:
    return next((c for c in trainer.callbacks if isinstance(c, DynamicGradientAlignment)), None)


def _alignments(trainer: Any) -> Any:
    callback = _callback(trainer)
    return callback.alignments if callback is not None else None


def _rounded(values: list[float]) -> list[float | None]:
    return [None if math.isnan(value) else round(value, 2) for value in values]
