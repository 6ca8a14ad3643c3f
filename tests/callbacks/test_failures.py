"""A rank that dies, hangs or holds other weights ends the run with a message that names it."""

import os
import sys
import time
import traceback

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from lightning.pytorch import Callback

from lightning_dga import DynamicGradientAlignment
from tests.helpers.toys import Plain, mixture, trainer

pytestmark = pytest.mark.cluster
RANKS = 3


def naps_for_ever():
    while True:
        time.sleep(0.1)


class Model(Plain):
    """Rank 1 fails in the alignment after step 4."""

    def __init__(self, what):
        super().__init__()
        self.what = what

    def loss(self, batch):
        if not self.training and self.trainer.global_rank == 1 and self.trainer.global_step == 4:
            if self.what == "dies":
                os._exit(9)
            if self.what == "hangs":
                naps_for_ever()
            if self.what == "fails":
                raise ArithmeticError("a bad sample")
        return super().loss(batch)


class Astray(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if pl_module.what == "goes astray" and trainer.global_rank == 1 and trainer.global_step == 3:
            trainer.datamodule.set_weights([0.2, 0.3, 0.5])


def one(rank, what, folder, port):
    # all that is said goes to a file, also what comes just before an end at once
    os.dup2(os.open(folder / str(rank), os.O_WRONLY | os.O_CREAT), 2)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "WORLD_SIZE": str(RANKS)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(RANKS), "TORCHELASTIC_RUN_ID": "test"}
    # the store is in none of the processes that may die, as torchrun has it
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
    callback = DynamicGradientAlignment(2, estimator="backward", timeout=30)
    fit = trainer(callback, Astray(), max_steps=8, strategy="ddp", devices=RANKS)
    try:
        fit.fit(Model(what), datamodule=mixture(batch_size=2))
    except BaseException:
        os.write(2, traceback.format_exc().encode())
        os._exit(1)
    dist.barrier()
    os._exit(0)


def job(folder, what):
    """The output and the exit status of each process."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    started = torch.multiprocessing.start_processes(
        one, (what, folder, store.port), RANKS, start_method="fork", join=False
    ).processes
    for process in started:
        process.join(900)
    status = [process.exitcode for process in started]
    for process in started:
        process.kill()
    return [(folder / str(rank)).read_text() for rank in range(RANKS)], status


@pytest.mark.parametrize(
    ("what", "named"),
    [
        ("dies", "Rank 1 has died, while aligning after step 4"),
        ("hangs", "Rank 1 does not wait for the others: it is at "),
        ("fails", 'Rank 1 failed while aligning after step 4: ArithmeticError("a bad sample (in the loss of'),
        ("goes astray", "Ranks [1] hold other weights than the rest at update 1"),
    ],
)
def test_it_is_named_by_the_others(tmp_path, what, named):
    said, status = job(tmp_path, what)
    for rank in (0, 2):
        assert named in said[rank], f"{status} {said[rank][-2000:]}"
        assert status[rank] not in (0, None)
    if what == "hangs":
        assert "test_failures.py" in said[0] and "in naps_for_ever" in said[0]
        # nobody is left behind
        assert status == [70, 70, 70]


def test_processes_that_do_well_are_left_alone(tmp_path):
    said, status = job(tmp_path, "does well")
    assert status == [0, 0, 0], said
    assert not any("Process" in one for one in said)
