"""Worker processes: their initialization, their handling of signals, and their termination when stuck."""

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
    """A DataLoader whose workers are killed when it shuts down, even if they are stuck.

    torch asks a worker to exit, waits for some seconds and sends SIGTERM; Python sends SIGTERM at interpreter exit and
    waits indefinitely. A worker that is stuck in native code holding the GIL reacts to neither. So SIGKILL is sent
    where torch and Python send SIGTERM.
    """

    def __iter__(self) -> Any:
        if isinstance(self.worker_init_fn, WorkerInit):
            self.worker_init_fn.started_here()
        iterator = super().__iter__()
        for worker in getattr(iterator, "_workers", []):
            worker.terminate = worker.kill
            # called by `multiprocessing` when the training process exits
            worker._popen.terminate = worker._popen.kill
        return iterator


class WorkerInit:
    """Initializes a worker process; a ``worker_init_fn``.

    The worker ends with the training process, even if that is killed (on Linux). Signals sent to the whole job do not
    end it earlier: training needs batches to finish the current step and save a checkpoint. SIGTERM is accepted only
    from the training process (on systems that report the sender).

    Under Lightning's ``seed_everything(workers=True)``, workers of different ranks get different seeds; Lightning does
    this itself only for loaders without a ``worker_init_fn``.
    """

    def __init__(self) -> None:
        self.started_here()

    def started_here(self) -> None:
        """Records the process, rank and thread that start the workers."""
        self._parent = os.getpid()
        self._rank = rank()
        # for PR_SET_PDEATHSIG the kernel's parent of a process is the thread that started it
        self._by_main_thread = threading.current_thread() is threading.main_thread()

    def __call__(self, worker: int) -> None:
        """Runs in the worker with the worker's index."""
        if sys.platform.startswith("linux") and self._by_main_thread:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == 1 != self._parent:
                # the parent died before `prctl` took effect
                os._exit(1)
        _ignore_job_signals()
        if os.environ.get("PL_SEED_WORKERS") == "1":
            seed_global(int(keys(torch.initial_seed() - worker, worker, self._rank)[0]))


def _ignore_job_signals() -> None:
    for name in ("SIGINT", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_on_sigterm_from, args=(os.getppid(),), daemon=True).start()


def _exit_on_sigterm_from(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
