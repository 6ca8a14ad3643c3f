"""Reading processes in a job that is told to end."""

import os
import signal
import threading


def outlive_signals(worker: int) -> None:
    """Lets a worker go on reading until its training process is done with it; a ``worker_init_fn``.

    Who ends a job tells all of its processes, and training wants batches for the step that it is in, or it fails where
    it would have saved a checkpoint. SIGTERM is heeded from the training process alone (on systems that tell who sent
    it).
    """
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
