"""One run folder, one writer."""

import multiprocessing
import signal

import pytest

from lightning_dga.cli.run_lock import sole_writer
from lightning_dga.report import RunFolderError


def hold(folder, held):
    with sole_writer(folder):
        held.set()
        signal.pause()


def test_a_second_process_is_told_and_a_dead_one_holds_nothing(tmp_path):
    processes = multiprocessing.get_context("fork")
    held = processes.Event()
    first = processes.Process(target=hold, args=(tmp_path / "run", held))
    first.start()
    assert held.wait(60)
    with pytest.raises(RunFolderError, match="Another process is writing"), sole_writer(tmp_path / "run", 0.3):
        pass
    first.kill()
    first.join()
    with sole_writer(tmp_path / "run", 30):
        pass


def test_it_is_given_back(tmp_path):
    for _ in range(2):
        with sole_writer(tmp_path, 0.3):
            pass
