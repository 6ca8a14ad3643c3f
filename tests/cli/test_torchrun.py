"""Processes that torchrun starts, instead of Lightning."""

import json
import os
import subprocess
import sys

import pytest

from tests.helpers.commands import QUICK, corpora_run, dga_train_from_a_shell, rows

# `in_step` measures what each process trains on, which is other samples where there are more processes
SETTINGS = ["callbacks.dga.estimator=backward"]


@pytest.mark.cluster
def test_two_processes_of_torchrun_do_what_one_does(tmp_path, corpora):
    assert corpora_run(tmp_path, corpora, *SETTINGS, "name=alone", run=dga_train_from_a_shell).returncode == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    where = ["experiment=corpora", f"data.root={corpora}", "data.target=weather", "name=together"]
    trainer = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", *SETTINGS]
    command = [*launcher, "-m", "lightning_dga.cli.train", *where, *trainer, *QUICK, "data.batch_size=4"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def run(*overrides):
        return subprocess.run(
            [*command, *overrides], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=800
        )

    done = run()
    assert done.returncode == 0, done.stderr[-2000:]
    folders = [tmp_path / "runs" / name / "dga_seed0" for name in ("alone", "together")]
    alone, together = (json.loads((folder / "metrics.json").read_text()) for folder in folders)
    assert alone["tokens"] == together["tokens"]
    assert together["weights"] == pytest.approx(alone["weights"], rel=1e-4)
    assert [row["step"] for row in rows(folders[1])] == [row["step"] for row in rows(folders[0])]
    again = run()
    assert again.returncode != 0
    assert "already holds a run" in again.stderr
