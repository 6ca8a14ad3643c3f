"""Detects a rank that has died or hangs, reports what it was doing, and ends the job."""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lightning_dga.distributed import (
    PeerFailure,
    StatusStore,
    failing_together,
    is_distributed,
    known_to_all,
    rank,
    world_size,
)

EXIT_STATUS = 70  # EX_SOFTWARE of sysexits.h
# seconds that a rank has to end by itself after another rank reported a failure
_GRACE = 10.0
_NAMED = 8
_WAITS_IN = f"{os.sep}torch{os.sep}distributed{os.sep}"


class ProcessFailure(RuntimeError):
    """Another rank died or failed; the message names the rank and what it was doing."""


class Watchdog:
    """Watches the phases that involve collectives on all ranks.

    A background thread on each rank writes a status note (heartbeat, phase, position of the main thread) every second
    or so to the distributed key-value store; training is not involved. When a phase takes too long, or fails because a
    rank is gone, the notes tell which rank caused it.

    Args:
        timeout: Seconds that a phase may take. After that the process exits with status 70, because a process that
            waits in a collective cannot be interrupted.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self._phase: dict[str, Any] = {}
        self._started = 0.0
        self._beats = 0
        self._ended, self._changed = threading.Event(), threading.Event()
        self._main = threading.get_ident()
        self._board: StatusStore | None = None
        # with a world size of 1,000, no more than about a hundred notes a second are written
        self._interval = min(max(1.0, world_size() / 100), timeout / 4, 10.0)

    def start(self) -> None:
        """Starts the watchdog thread if the world size is larger than 1."""
        if is_distributed() and self._board is None:
            self._board = StatusStore()
            threading.Thread(target=self._watch, daemon=True, name="dga-watchdog").start()

    def stop(self) -> None:
        """Stops the watchdog thread; does nothing if it was not started."""
        self._ended.set()
        self._changed.set()

    @contextmanager
    def phase(self, name: str, step: int, device: torch.device) -> Iterator[None]:
        """Runs a phase that involves all ranks; if one rank fails, all raise.

        Args:
            name: Name of the phase, for messages.
            step: Training steps done, for messages.
            device: The device for the collectives.

        Raises:
            ProcessFailure: If another rank has died or failed.
        """
        self._started = time.monotonic()
        self._phase = {"phase": name, "step": step}
        self._changed.set()
        try:
            with failing_together(device, on_error=self._report):
                yield
        except PeerFailure as failure:
            self._phase = {}
            raise ProcessFailure(
                f"Rank {failure.process} failed while {name} after step {step}: {failure.error}"
            ) from failure
        except Exception as error:
            if known_to_all(error):
                self._say(f"Rank {rank()} failed while {name} after step {step}: {error!r}")
                self._phase = {}
                raise
            if self._board is None or self._ended.is_set():
                self._phase = {}
                raise
            gone = self._gone()
            if gone:
                raise ProcessFailure(f"{_first(gone)} This rank was {name} after step {step}.") from error
            self._say(f"Rank {rank()} failed while {name} after step {step}: {error!r}")
            # the note stays in the store: the other ranks read it when this rank no longer responds
            self._phase["failed"] = repr(error)
            self._note()
            raise
        self._phase = {}

    def _report(self, error: Exception) -> None:
        if self._board is not None:
            doing = f"{self._phase['phase']} after step {self._phase['step']}"
            self._board.report(f"Rank {rank()} failed while {doing}: {error!r}")

    def _end_with(self, message: str) -> None:
        """Exits this process at once, because it cannot be interrupted while it waits in a collective."""
        if self._phase and not self._ended.is_set():
            self._say(message)
            self._phase["left"] = True
            self._note()
            os._exit(EXIT_STATUS)

    def _watch(self) -> None:
        told: float | None = None
        while not self._ended.is_set():
            self._changed.wait(self._interval)
            self._changed.clear()
            self._note()
            running = self._phase and "failed" not in self._phase
            if not running:
                told = None
                continue
            phase, now = dict(self._phase), time.monotonic()
            assert self._board is not None
            failure = self._board.failure()
            if not failure:
                told = None
            elif told is None:
                told = now
            elif now - told > _GRACE:
                # this rank may be waiting in a collective of FSDP2, where no error of another rank can reach it
                self._end_with(f"{failure} Rank {rank()}, {phase['phase']}, waited for it. The job is stopped.")
            if now - self._started > self.timeout:
                self._end_with(
                    f"Rank {rank()} has been {phase['phase']} after step {phase['step']} for more than "
                    f"{self.timeout:g} s. {_first(self._late())} The job is stopped. If it was only slow, raise "
                    "the callback's `timeout`."
                )

    def _note(self) -> None:
        self._beats += 1
        frame = sys._current_frames().get(self._main)
        waits = frame is not None and _WAITS_IN in frame.f_code.co_filename
        while frame is not None and _WAITS_IN in frame.f_code.co_filename:
            frame = frame.f_back
        where = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}" if frame is not None else ""
        assert self._board is not None
        self._board.write(json.dumps({**self._phase, "beat": self._beats, "where": where, "waits": waits}))

    def _notes(self) -> list[dict[str, Any]]:
        assert self._board is not None
        return [json.loads(note) if note else {} for note in self._board.read()]

    def _gone(self) -> list[str]:
        """A message for each rank that has failed, or whose heartbeat has stopped."""
        before = self._notes()
        for _ in range(5):
            time.sleep(self._interval / 2)
            self._note()
        after = self._notes()
        found = []
        for other, (old, new) in enumerate(zip(before, after, strict=True)):
            if other == rank():
                continue
            doing = f"{new.get('phase', 'training')} after step {new['step']}" if "step" in new else "training"
            if "failed" in new:
                found.append(f"Rank {other} failed while {doing}: {new['failed']}.")
            elif old.get("beat") == new.get("beat") and "left" not in new:
                found.append(f"Rank {other} has died, while {doing}; it was last seen at {new.get('where', '?')}.")
        return found

    def _late(self) -> list[str]:
        """A message for each rank that the others wait for."""
        return self._gone() or [
            f"Rank {other} does not wait for the others: it is at {note.get('where', '?')}."
            for other, note in enumerate(self._notes())
            if not note.get("waits")
        ]

    def _say(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)


def _first(said: list[str]) -> str:
    shown = " ".join(said[:_NAMED]) or "All ranks wait for one another."
    return shown + (f" The same is true of {len(said) - _NAMED} more." if len(said) > _NAMED else "")
