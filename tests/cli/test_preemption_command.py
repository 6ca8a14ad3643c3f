"""Signals to `dga-train` from the process that started it."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.helpers.commands import QUICK, rows

LONG = ["trainer.max_steps=400", "trainer.val_check_interval=200"]


def start(folder, corpora, *overrides):
    where = ["experiment=corpora", f"data.root={corpora}", "data.target=weather", *QUICK, *LONG]
    command = [sys.executable, "-m", "lightning_dga.cli.train", *where, *overrides]
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=folder, env=variables, stderr=subprocess.PIPE, text=True)


def told_while_training(process, run, number):
    until = time.monotonic() + 600
    while time.monotonic() < until and process.poll() is None:
        if (run / "weights.csv").is_file() and len(rows(run)) > 3:
            process.send_signal(number)
            break
        time.sleep(0.02)
    return process.wait(600), process.stderr.read()


@pytest.mark.cluster
@pytest.mark.parametrize(("number", "devices"), [(signal.SIGINT, 1), (signal.SIGTERM, 2)])
def test_it_resumes_to_the_run_that_was_not_told(tmp_path, corpora, number, devices):
    settings = ["trainer=ddp", "trainer.accelerator=cpu", f"trainer.devices={devices}"]
    settings += [f"data.batch_size={8 // devices}", "callbacks.dga.estimator=backward"]
    whole = start(tmp_path, corpora, *settings, "name=whole")
    assert whole.wait(600) == 0, whole.stderr.read()[-2000:]
    run = tmp_path / "runs" / "parts" / "dga_seed0"
    status, said = told_while_training(start(tmp_path, corpora, *settings, "name=parts"), run, number)
    assert status == 75, said[-2000:]
    # long before the first checkpoint that it would have written
    (checkpoint,) = (run / "checkpoints").iterdir()
    assert f"saved as {checkpoint}" in said and "Traceback" not in said
    assert not (run / "metrics.json").exists()
    rest = start(tmp_path, corpora, *settings, "name=parts", "resume=true")
    assert rest.wait(600) == 0, rest.stderr.read()[-2000:]
    assert rows(run) == rows(tmp_path / "runs" / "whole" / "dga_seed0")
