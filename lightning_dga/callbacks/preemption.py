"""Preemption: on a signal, saves a checkpoint that resumes exactly, and ends the run as unfinished."""

import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from typing_extensions import override

from lightning_dga._lightning import Checkpoint, rank_zero_info, rank_zero_warn
from lightning_dga.atomic import flush_to_disk
from lightning_dga.callbacks.checkpoints import newest_checkpoint
from lightning_dga.distributed import AsyncAgreement

__all__ = ["EXIT_STATUS", "Preempted", "Preemption", "is_slurm_job", "newest_checkpoint", "was_requeued"]

# EX_TEMPFAIL of sysexits.h: temporary failure, retry
EXIT_STATUS = 75
_CHECKPOINT = re.compile(r"preempted-step=\d+\.ckpt")
# SIGTERM: a machine that is taken back, `kill`, torchrun; SIGUSR1: SLURM's --signal by convention; SIGUSR2: submitit
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))
# the sender of one of these has ended the job already, or requeues it without being asked
_ENDS_THE_JOB = (signal.SIGTERM, signal.SIGINT)
_GO_ON, _STOP, _STOP_AND_REQUEUE = range(3)


class Preempted(SystemExit):
    """A run was told to stop before it was done; if not caught, the process exits with status 75.

    Args:
        message: What happened.
        code: Exit status of this process.
        together: Whether all ranks stop at the same step, as they have agreed.
    """

    def __init__(self, message: str, code: int = EXIT_STATUS, *, together: bool = False) -> None:
        super().__init__(code)
        self.message = message
        self.together = together

    def __str__(self) -> str:
        return self.message


class Preemption(Checkpoint):
    """Ends training at an optimizer step when a signal asks for it, with a checkpoint that resumes to the same run.

    SIGTERM, SIGINT (Ctrl-C), SIGUSR1 and SIGUSR2 only set a flag when they arrive, even in the middle of a step or of a
    measurement; a second Ctrl-C ends at once. All ranks agree on the step at which they stop, even if only one of them
    received the signal: that takes one asynchronous all-reduce of one number per step, read a step later. A SLURM job
    that received SIGUSR1 or SIGUSR2, as ``sbatch --signal`` sends it before the time limit, is then requeued.

    The callback replaces Lightning's handlers for these signals while it is in use: those save wherever a process
    happens to be, which may be in the middle of a step, and at a different step on each rank.

    Args:
        folder: Folder for ``preempted-step=<n>.ckpt``.
        requeue: Whether a SLURM job is requeued.

    Example::

        trainer = L.Trainer(callbacks=[DynamicGradientAlignment(), ModelCheckpoint("run"), Preemption("run")])
        trainer.fit(model, datamodule=datamodule, ckpt_path=newest_checkpoint("run"))
    """

    def __init__(self, folder: str | Path, requeue: bool = True) -> None:
        self.folder = Path(folder)
        self.requeue = requeue
        self._training = False
        self._wanted = _GO_ON
        self._name = ""
        self._step = -1
        self._ballot: AsyncAgreement | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handles the signals outside of ``fit`` too, where there is nothing to save and the process ends at once."""
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        self._listen()
        try:
            yield
        finally:
            for number, handler in before.items():
                _handle(number, handler)

    @override
    def on_sanity_check_start(self, trainer: Any, pl_module: Any) -> None:
        self._listen()

    @override
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        # Lightning has installed its handlers by now, and restores the earlier ones when it is done
        self._listen()
        self._training = True
        self._step = trainer.global_step
        self._ballot = AsyncAgreement()

    @override
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        # Lightning runs Checkpoint callbacks last, so the saved state includes what other callbacks did after this step
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        assert self._ballot is not None
        wanted = self._ballot.vote(self._wanted)
        if wanted != _GO_ON:
            path = self._save(trainer)
            self._stop(trainer, wanted, f"step {self._step} is saved as {path}; resume from there")

    @override
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        assert self._ballot is not None
        wanted = self._ballot.close(self._wanted)
        self._training = False
        if wanted != _GO_ON:
            self._stop(trainer, wanted, "training had finished; what follows it in this run is skipped")
        if trainer.is_global_zero:
            self._remove_all()

    @override
    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._training = False

    def _listen(self) -> None:
        for number in _SIGNALS:
            _handle(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if number == signal.SIGINT and (self._wanted or not self._training):
            raise KeyboardInterrupt
        wanted = _STOP if number in _ENDS_THE_JOB else _STOP_AND_REQUEUE
        self._wanted, self._name = max(self._wanted, wanted), name
        if self._training:
            # `os.write` and not `print`, which is not reentrant
            os.write(2, f"\n{name}: stopping after this step\n".encode())
        else:
            self._requeue(wanted)
            raise Preempted(f"{name} arrived outside of training, so there was nothing to save.")

    def _save(self, trainer: Any) -> Path:
        """Saves under a temporary name first, so that a kill at any moment leaves at least one complete checkpoint."""
        path = self.folder / f"preempted-step={self._step}.ckpt"
        part = path.with_suffix(".part")
        if trainer.is_global_zero:
            _remove(part)  # left over from a killed run
        trainer.strategy.barrier()
        try:
            trainer.save_checkpoint(part)
        except OSError as error:
            _remove(part)
            raise OSError(
                error.errno, f"the run was told to stop, and its checkpoint cannot be saved: {error}", str(path)
            ) from error
        if trainer.is_global_zero:
            flush_to_disk(part)
            if path.is_dir():
                # a folder cannot be replaced by renaming; the existing one is of the same step and equally valid
                _remove(part)
            else:
                part.replace(path)
            self._remove_all(but=path)
        trainer.strategy.barrier()
        return path

    def _remove_all(self, but: Path | None = None) -> None:
        for path in self.folder.glob("preempted-step=*.ckpt"):
            if _CHECKPOINT.fullmatch(path.name) and path != but:
                _remove(path)

    def _stop(self, trainer: Any, wanted: int, what: str) -> None:
        self._training = False
        self._wanted = _GO_ON
        if self._ballot is not None:
            self._ballot.end()
        # Lightning's own launcher takes a child's non-zero status for a crash, and kills the process of rank 0
        environment = type(getattr(trainer.strategy, "cluster_environment", None)).__name__
        is_child = environment == "LightningEnvironment" and trainer.local_rank > 0
        message = f"{self._name or 'A signal'}: {what}."
        self._requeue(wanted)
        rank_zero_info(message)
        raise Preempted(message, 0 if is_child else EXIT_STATUS, together=True)

    def _requeue(self, wanted: int) -> None:
        if wanted == _STOP_AND_REQUEUE and self.requeue and is_slurm_job():
            _requeue()


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def is_slurm_job() -> bool:
    """Whether this process is a task of a SLURM job that is not interactive."""
    return "SLURM_JOB_ID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")


def was_requeued() -> bool:
    """Whether this process belongs to a SLURM job that was requeued and is running again."""
    return is_slurm_job() and int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0


def _requeue() -> None:
    if os.environ.get("SLURM_PROCID", "0") != "0":
        return
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
        failed = done.stderr.strip() if done.returncode else None
    except OSError as error:
        failed = str(error)
    if failed:
        rank_zero_warn(f"SLURM job {job} could not be requeued ({failed}). Submit it again to continue the run.")
    else:
        rank_zero_info(f"SLURM job {job} is requeued.")


def _handle(number: int, handler: Any) -> None:
    if threading.current_thread() is threading.main_thread():
        # a handler that was not set from Python is reported as None, and cannot be restored
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
