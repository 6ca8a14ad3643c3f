"""A lock that keeps two processes from writing one run folder, on filesystems with locks."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lightning_dga._lightning import rank_zero_warn
from lightning_dga.report.run_folder import LOCK, RunFolderError

# worker processes of a killed run keep its lock until they notice, within five seconds, that it is gone
_SECONDS = 10


@contextmanager
def sole_writer(folder: Path, seconds: float = _SECONDS) -> Iterator[None]:
    """Holds a lock on a run folder; the lock is released when this process ends in any way.

    Args:
        folder: The run folder; created if it does not exist.
        seconds: Time to wait for another process that holds the lock.

    Raises:
        RunFolderError: If another process holds the lock for longer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=seconds, poll_interval=0.2)
    except Timeout as error:
        raise RunFolderError(
            f"Another process is writing to {folder}. Wait for it or stop it, or choose another `name`."
        ) from error
    except (NotImplementedError, OSError) as error:
        # a filesystem without locks, or one that is not writable, which fails later with a clear error
        rank_zero_warn(f"{folder / LOCK} cannot be locked ({error}), so nothing prevents a second run in this folder.")
    try:
        yield
    finally:
        lock.release()
