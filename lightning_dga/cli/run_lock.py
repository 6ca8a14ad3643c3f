"""Two processes never write one run folder: the second is told that there is a first."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lightning_dga._lightning import rank_zero_warn
from lightning_dga.report.run_folder import LOCK, RunFolderError

# worker processes of a run that was killed hold what it held, until they notice within five seconds
_SECONDS = 10


@contextmanager
def sole_writer(folder: Path, seconds: float = _SECONDS) -> Iterator[None]:
    """Holds a lock on a run folder, which ends with this process however that ends.

    Args:
        folder: The run folder; made where there is none.
        seconds: How long to wait for a process that holds it.

    Raises:
        RunFolderError: If another process holds it for longer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=seconds, poll_interval=0.2)
    except Timeout as error:
        raise RunFolderError(
            f"Another process is writing {folder}. Wait for it or end it, or choose another `name`."
        ) from error
    except (NotImplementedError, OSError) as error:
        # a filesystem without locks; one that cannot be written at all shows soon enough
        rank_zero_warn(f"{folder / LOCK} cannot be locked ({error}): nothing keeps a second run out of this folder.")
    try:
        yield
    finally:
        lock.release()
