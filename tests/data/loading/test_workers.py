"""Workers that hang in other code end with their loader and with the process that started them."""

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from lightning_dga import MixtureDataModule
from lightning_dga.data.loading.workers import WorkerInit, WorkerLoader
from tests.helpers.toys import Points

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the Linux kernel")


class Stuck(Dataset):
    """Sleeps in C code with the interpreter's lock held, as a hung driver or decoder does."""

    def __len__(self):
        return 9

    def __getitem__(self, index):
        if index >= 0:
            ctypes.PyDLL(None).sleep(1000)
        return torch.zeros(1)


def has_ended(pid):
    """Whether a process is gone, or a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_for_end(pids):
    deadline = time.monotonic() + 60
    while not all(map(has_ended, pids)):
        assert time.monotonic() < deadline, "a worker lives on"
        time.sleep(0.05)


@linux
@pytest.mark.slow
@pytest.mark.parametrize("part", ["train", "val"])
def test_one_that_is_stuck_ends_with_its_loader(part):
    data = MixtureDataModule({"a": Stuck()}, Points(0, 3), val=Stuck(), batch_size=1, num_workers=1, timeout=1)
    loader = data.train_dataloader() if part == "train" else data.val_dataloader()
    with pytest.raises(RuntimeError, match="timed out"):
        next(iter(loader))
    workers = [process.pid for process in multiprocessing.active_children()]
    data.teardown("fit")
    del loader
    wait_for_end(workers)


PROGRAM = """
import multiprocessing, sys, time
from tests.data.loading.test_workers import Points, Stuck
from lightning_dga import MixtureDataModule

if __name__ == "__main__":
    data = MixtureDataModule({"a": Stuck()}, Points(0, 3), val=Stuck(), batch_size=1, num_workers=1)
    batches = iter(data.train_dataloader() if sys.argv[1] == "train" else data.val_dataloader())
    if sys.argv[1] == "train":
        data._loader._batches = iter(data._loader._loader)  # starts the worker without waiting for a batch
    time.sleep(0.5)
    print(*(process.pid for process in multiprocessing.active_children()), flush=True)
    if sys.argv[2] == "killed":
        time.sleep(1000)
"""


@linux
@pytest.mark.slow
@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize("how", ["killed", "exits"])
def test_one_that_is_stuck_ends_with_the_training_process(part, how):
    program = subprocess.Popen([sys.executable, "-c", PROGRAM, part, how], stdout=subprocess.PIPE, text=True)
    try:
        workers = list(map(int, program.stdout.readline().split()))
        assert workers and not has_ended(workers[0])
        if how == "killed":
            os.kill(program.pid, signal.SIGKILL)
        assert program.wait(120) == (-signal.SIGKILL if how == "killed" else 0)
        wait_for_end(workers)
    finally:
        program.kill()


def test_workers_of_ranks_draw_other_numbers_where_lightning_is_told_to_seed_them(monkeypatch):
    class Drawing(Points):
        def __getitem__(self, index):
            return torch.rand(())

    def drawn(rank):
        monkeypatch.setattr("lightning_dga.data.loading.workers.rank", lambda: rank)
        torch.manual_seed(0)
        return next(
            iter(WorkerLoader(Drawing(0, 4), batch_size=4, num_workers=1, worker_init_fn=WorkerInit()))
        ).tolist()

    assert drawn(0) == drawn(1)
    monkeypatch.setenv("PL_SEED_WORKERS", "1")
    assert drawn(0) != drawn(1)
    assert drawn(1) == drawn(1)
