"""A run that is stopped by a signal at any moment resumes to the same result as an uninterrupted run."""

import multiprocessing
import os
import random
import signal
import subprocess
import time

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import default_collate

from lightning_dga import DynamicGradientAlignment, MixtureDataModule, Preempted, Preemption, newest_checkpoint
from tests.helpers.processes import together
from tests.helpers.toys import Plain, Points, mixture, trainer

STEPS = 150
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2]


class Moments:
    """Counts the moments of a run that a test can tell apart, and sends a signal at one of them."""

    def __init__(self, at=None, number=signal.SIGTERM):
        self.at, self.number, self.count, self.where, self.training = at, number, 0, None, False

    def __call__(self, where):
        if not self.training:
            return
        self.count += 1
        if self.count == self.at:
            self.where = where
            # as who ends a job does: all of its processes are told, and not by one another
            for process in multiprocessing.active_children():
                subprocess.run(["kill", f"-{int(self.number)}", str(process.pid)], check=True)
                time.sleep(0.05)
            os.kill(os.getpid(), self.number)


class Told(Plain):
    def __init__(self, moments, **settings):
        super().__init__(**settings)
        # of the class, where probes leave it: what an instance holds is put back after each
        type(self).moments = [moments]

    def loss(self, batch):
        self.moments[0]("a training loss" if self.training else "an alignment loss")
        return super().loss(batch)

    def validation_step(self, batch, batch_idx):
        self.moments[0]("validation")
        self.log("val/loss", self.loss(batch))

    def on_before_zero_grad(self, optimizer):
        self.moments[0]("before gradients are cleared")

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        optimizer.register_step_pre_hook(lambda *_: self.moments[0]("before a step"))
        optimizer.register_step_post_hook(lambda *_: self.moments[0]("after a step"))
        return optimizer


class ToldMixture(MixtureDataModule):
    moments = Moments()

    def set_weights(self, weights):
        self.moments("before new weights")
        super().set_weights(weights)
        self.moments("after new weights")


class History(Callback):
    def __init__(self, moments):
        self.moments, self.rows, self.weights = moments, [], []

    def on_train_start(self, trainer, pl_module):
        self.moments.training = True

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.moments("a batch begins")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        data = trainer.datamodule
        row = (data.current_batch.version, *data.weights.tolist())
        self.rows.append((trainer.global_step, batch[2].tolist(), row, outputs["loss"].item()))
        self.moments("a batch ends")


def run(folder, moments, *, steps=STEPS, ranks=1, workers=0, **settings):
    """One start of the run: from where the folder's newest checkpoint is, to its end or until it is told to end."""
    torch.manual_seed(0)
    ToldMixture.moments = moments

    def collate(samples):
        if torch.utils.data.get_worker_info() is None:
            moments("samples are collated")
        return default_collate(samples)

    history = History(moments)
    dga = DynamicGradientAlignment(3, estimator="backward", probe_batch_size=2, step_size=3.0)
    data = ToldMixture(
        {f"domain{i}": Points(i, 20 + i) for i in range(3)}, Points(1, 12), val=Points(9, 8), batch_size=4 // ranks,
        target_batch_size=6, num_workers=workers, collate_fn=collate,
    )  # fmt: skip
    fit = trainer(
        ModelCheckpoint(folder, every_n_train_steps=40, save_last=True), Preemption(folder), dga, history,
        **{"max_steps": steps, "val_check_interval": 4, "check_val_every_n_epoch": None, "num_sanity_val_steps": 1,
           "enable_checkpointing": True, **({"strategy": "ddp", "devices": ranks} if ranks > 1 else {}), **settings},
    )  # fmt: skip
    model = Told(moments)
    try:
        fit.fit(model, datamodule=data, ckpt_path=newest_checkpoint(folder))
        ended = None
    except Preempted as end:
        ended = end
    return {"rows": history.rows, "ended": ended, "parameters": model.state_dict(), "seen": data.samples_seen}


def assert_same_run(parts, whole):
    rows = [row for part in parts for row in part["rows"]]
    assert [row[0] for row in rows] == [row[0] for row in whole["rows"]]
    for index, what in enumerate(["step", "samples", "weights", "loss"]):
        assert [row[index] for row in rows] == [row[index] for row in whole["rows"]], what
    torch.testing.assert_close(parts[-1]["parameters"], whole["parameters"], rtol=0, atol=0)
    assert torch.equal(parts[-1]["seen"], whole["seen"])


def test_fifty_preemptions_change_nothing(tmp_path):
    chosen = random.Random(0)
    whole = run(tmp_path / "whole", Moments())
    assert len(whole["rows"]) == STEPS and whole["ended"] is None
    parts, where = [], set()
    while len(parts) < 50:
        moments = Moments(chosen.randint(1, 25), chosen.choice(SIGNALS))
        parts.append(run(tmp_path / "parts", moments))
        assert moments.where is not None and parts[-1]["ended"].code == 75, "the run was over too soon"
        where.add(moments.where)
    parts.append(run(tmp_path / "parts", Moments()))
    assert parts[-1]["ended"] is None
    assert_same_run(parts, whole)
    assert len({row[2] for row in whole["rows"]}) > STEPS // 4, "the weights must move for this to show anything"
    assert {"an alignment loss", "a training loss", "before a step", "after a step", "validation"} <= where
    assert not list((tmp_path / "parts").glob("preempted*")), "a run that is done needs no such checkpoint"


# a step takes more batches than are read ahead
READ_AHEAD = {"steps": 3, "workers": 2, "accumulate_grad_batches": 8}


@pytest.fixture(scope="module")
def never_told(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole"), Moments(), **READ_AHEAD)


@pytest.mark.parametrize("number", SIGNALS)
def test_workers_go_on_reading_until_the_step_is_done(tmp_path, never_told, number):
    parts = [run(tmp_path, Moments(5, number), **READ_AHEAD)]
    assert parts[0]["ended"] is not None
    parts.append(run(tmp_path, Moments(), **READ_AHEAD))
    assert_same_run(parts, never_told)


def several(folder, ranks, told, moments):
    """Starts of a run in one group of processes; at each, one of them is told to end."""
    parts, rank = [], int(os.environ["RANK"])
    settings = {"steps": 30, "ranks": ranks, "val_check_interval": 30}
    whole = run(folder / "whole", Moments(), **settings)
    for number, moment in enumerate(moments):
        parts.append(run(folder / "parts", Moments(moment if rank == told[number] else None), **settings))
    parts.append(run(folder / "parts", Moments(), **settings))
    assert_same_run(parts, whole)
    return [part["rows"][-1][0] for part in parts], [part["ended"] and part["ended"].together for part in parts]


def test_processes_stop_together_when_one_is_told(tmp_path):
    results = together(several, 2, tmp_path, 2, [0, 1, 1, 0], [9, 4, 17, 30])
    assert results[0] == results[1]
    steps, ended = results[0]
    assert ended == [True] * 4 + [None]
    assert steps == sorted(set(steps)) and steps[-1] == 30


def test_a_step_of_several_batches_is_finished_first(tmp_path):
    whole = run(tmp_path / "whole", Moments(), steps=9, accumulate_grad_batches=3)
    parts = []
    for moment in (2, 9, 14):
        parts.append(run(tmp_path / "parts", Moments(moment), steps=9, accumulate_grad_batches=3))
        assert parts[-1]["ended"] is not None
        assert len(parts[-1]["rows"]) % 3 == 0
    parts.append(run(tmp_path / "parts", Moments(), steps=9, accumulate_grad_batches=3))
    assert_same_run(parts, whole)


def test_a_second_interrupt_ends_at_once(tmp_path):
    class Impatient(Callback):
        def on_before_backward(self, trainer, pl_module, loss):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(SystemExit) as end:
        trainer(Preemption(tmp_path), Impatient(), enable_checkpointing=True).fit(Plain(), datamodule=mixture())
    assert not isinstance(end.value, Preempted)
    assert newest_checkpoint(tmp_path) is None


def test_handlers_are_put_back(tmp_path):
    before = [signal.getsignal(number) for number in SIGNALS]
    trainer(Preemption(tmp_path), enable_checkpointing=True).fit(Plain(), datamodule=mixture())
    assert [signal.getsignal(number) for number in SIGNALS] == before
    run(tmp_path / "told", Moments(5))
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_signal_outside_of_training_ends_the_process(tmp_path):
    with pytest.raises(Preempted) as end, Preemption(tmp_path).listening():
        os.kill(os.getpid(), signal.SIGTERM)
    assert end.value.code == 75 and not end.value.together


def test_a_kill_while_it_saves_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    assert run(tmp_path, Moments(5))["ended"] is not None
    (before,) = tmp_path.glob("*.ckpt")

    class Killed(BaseException):
        pass

    def killed(self, but=None):
        raise Killed

    # as it is renamed, and before others are removed: there are two then, and never none
    monkeypatch.setattr(Preemption, "_remove_all", killed)
    with pytest.raises(Killed):
        run(tmp_path, Moments(25))
    assert before.exists() and len(list(tmp_path.glob("*.ckpt"))) == 2
    assert newest_checkpoint(tmp_path) != before


def test_a_full_disk_while_it_saves_is_named_and_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    assert run(tmp_path, Moments(5))["ended"] is not None
    (before,) = tmp_path.glob("*.ckpt")

    def full(self, path, *_, **__):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lightning.pytorch.Trainer.save_checkpoint", full)
    with pytest.raises(OSError, match=r"cannot be saved: .*No space.*preempted-step"):
        run(tmp_path, Moments(25))
    assert list(tmp_path.iterdir()) == [before]
