"""Jobs of a real SLURM: two nodes from `dga-train -m` and from a batch script; requeued by a signal."""

import json
import re
import subprocess
import time

import pytest

from tests.helpers.commands import rows
from tests.helpers.guides import GUIDES, commands, small

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(4800)]
SCRIPT, LAUNCHER, SIGNAL = commands("slurm")
# what `auto` takes is timed, and may be another in each run
JOB = [
    "trainer.max_steps=200",
    "trainer.val_check_interval=100",
    "data.batch_size=4",
    "callbacks.dga.estimator=backward",
]
HERE = ["hydra.launcher.gpus_per_node=null", "hydra.launcher.timeout_min=20"]


def launch(slurm, folder, corpora, *overrides):
    command = small(LAUNCHER, corpora, *JOB, *HERE, *overrides, devices=1)
    return subprocess.Popen(command, cwd=folder, env=slurm.environment, stderr=subprocess.PIPE, text=True)


def logs(folder):
    return "\n".join(file.read_text() for file in sorted(folder.rglob(".submitit/*/*log.*")))


def wait_until(condition, seconds=300):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_job_that_is_queued_again_is_the_run_that_was_not(slurm, tmp_path, corpora):
    whole = launch(slurm, tmp_path, corpora, "name=whole")
    assert whole.wait(1500) == 0, whole.stderr.read()[-2000:] + logs(tmp_path)[-3000:]
    run = tmp_path / "runs" / "whole" / "dga_seed0"
    assert json.loads((run / "metrics.json").read_text())["steps"] == 200
    assert "GLOBAL_RANK: 1, MEMBER: 2/2" in logs(tmp_path)

    told = launch(slurm, tmp_path, corpora, "name=told")
    again = tmp_path / "runs" / "told" / "dga_seed0"
    wait_until(lambda: (again / "weights.csv").is_file() and len(rows(again)) > 3)
    (job,) = slurm.ask("squeue", "-h", "-o", "%i").split()
    subprocess.run(SIGNAL.replace("JOB", job).split(), env=slurm.environment, check=True)
    assert told.wait(1500) == 0, told.stderr.read()[-2000:] + logs(tmp_path)[-3000:]
    said = logs(tmp_path / "runs" / "told")
    assert "is requeued" in said and "Restored all states" in said
    assert rows(again) == rows(run)


def test_the_batch_script(slurm, tmp_path, corpora):
    machine = ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", "--wait", "--output=job.log"]
    command = small(SCRIPT, corpora, *JOB)
    script = command.index("docs/guides/train.sbatch")
    # there are no GPUs here to ask for
    text = re.sub(r"#SBATCH --gpus-per-node=8\n", "", (GUIDES / "train.sbatch").read_text())
    (tmp_path / "train.sbatch").write_text(text)
    command[script : script + 1] = [*machine, "train.sbatch"]
    done = subprocess.run(command, cwd=tmp_path, env=slurm.environment, capture_output=True, text=True, timeout=1500)
    log = (tmp_path / "job.log").read_text()
    assert done.returncode == 0, done.stderr + log[-3000:]
    assert "GLOBAL_RANK: 1, MEMBER: 2/2" in log
    assert json.loads((tmp_path / "runs/weather/dga_seed0/metrics.json").read_text())["steps"] == 200
