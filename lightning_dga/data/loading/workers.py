"""Reading processes: what they do first, in a job that is told to end, and when they are stuck."""

import ctypes
import os
import signal
import sys
import threading
from typing import Any

import torch
from torch.utils.data import DataLoader

from lightning_dga.data.loading.generators import seed_global
from lightning_dga.data.sampling.permutation import keys
from lightning_dga.distributed import rank

_PR_SET_PDEATHSIG = 1


class WorkerLoader(DataLoader):
    """A DataLoader whose workers end with it, whatever they are doing.

    torch asks a worker to end, waits for some seconds and sends SIGTERM; Python sends it at its own end, and waits for
    good. A worker that is stuck in foreign code, which holds the interpreter's lock, heeds neither. So where torch and
    Python send SIGTERM, SIGKILL is sent.
    """

    def __iter__(self) -> Any:
        if isinstance(self.worker_init_fn, WorkerInit):
            self.worker_init_fn.started_here()
        iterator = super().__iter__()
        for worker in getattr(iterator, "_workers", []):
            worker.terminate = worker.kill
            # what `multiprocessing` calls when the training process exits
            worker._popen.terminate = worker._popen.kill
        return iterator


class WorkerInit:
    """What a worker does first; a ``worker_init_fn``.

    It ends with the process that trains, even if that one is killed (on Linux). Signals that are sent to the whole job
    do not end it before: training wants batches for the step that it is in, or it fails where it would have saved a
    checkpoint. SIGTERM is heeded from the training process alone (on systems that tell who sent it).

    Under Lightning's ``seed_everything(workers=True)`` workers of different ranks draw different numbers: Lightning
    sees to that itself only where a loader has no ``worker_init_fn``.
    """

    def __init__(self) -> None:
        self.started_here()

    def started_here(self) -> None:
        """Notes what a worker has to know of the process that starts it."""
        self._parent = os.getpid()
        self._rank = rank()
        # the kernel means the thread that started a process when it speaks of its parent
        self._by_main_thread = threading.current_thread() is threading.main_thread()

    def __call__(self, worker: int) -> None:
        """Runs in the worker, whose number it is given."""
        if sys.platform.startswith("linux") and self._by_main_thread:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == 1 != self._parent:
                # the parent died before
                os._exit(1)
        _outlive_signals()
        if os.environ.get("PL_SEED_WORKERS") == "1":
            seed_global(int(keys(torch.initial_seed() - worker, worker, self._rank)[0]))


def _outlive_signals() -> None:
    for name in ("SIGINT", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told_by, args=(os.getppid(),), daemon=True).start()


def _end_when_told_by(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
