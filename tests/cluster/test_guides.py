"""The commands of the guides run, in the order of the guides."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
import torch
from torch.utils.data import TensorDataset

from tests.helpers.guides import GUIDES, commands, small
from tests.helpers.toys import Linear

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(4800)]


def execute(command, folder, **settings):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1500, **settings)
    assert done.returncode == 0, f"{shlex.join(map(str, command))}\n{done.stderr[-2000:]}"
    return done.stdout + done.stderr


def test_one_gpu(tmp_path, corpora):
    plan, train, resume, report = commands("single_gpu")
    assert "one update" in execute(small(plan, corpora), tmp_path)
    execute(small(train, corpora), tmp_path)
    assert "Restored all states" in execute(small(resume, corpora, "trainer.max_steps=9"), tmp_path)
    command = ["-c", "from lightning_dga.cli.report import main; main()", *shlex.split(report)[1:]]
    execute([sys.executable, *(word.replace("NAME", "weather") for word in command)], tmp_path)
    assert list(tmp_path.rglob("report.html"))


@pytest.mark.parametrize("command", commands("one_machine"))
def test_one_machine(tmp_path, corpora, command):
    execute(small(command, corpora), tmp_path)
    runs = len(re.findall(r"seed=0,1", command)) + 1
    assert len(list(tmp_path.rglob("metrics.json"))) == runs


def test_the_plan_of_the_scaling_document(tmp_path, corpora):
    text = (GUIDES.parent / "scaling.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^dga-train .*", text, flags=re.MULTILINE)
    assert "one update" in execute(small(command, corpora), tmp_path)


def test_every_guide_has_a_test_of_its_commands():
    assert {file.stem for file in GUIDES.glob("*.md")} == {"single_gpu", "one_machine", "torchrun", "slurm"}
    assert len(commands("torchrun")) == 2 and len(commands("slurm")) == 3


def test_the_program_of_ones_own(tmp_path, monkeypatch):
    from lightning.pytorch.callbacks import ModelCheckpoint

    import lightning_dga

    text = (GUIDES / "single_gpu.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    data = TensorDataset(torch.randn(100, 3))
    datamodule = lightning_dga.MixtureDataModule({"a": data, "b": data}, data, batch_size=4)
    names = {
        **vars(lightning_dga),
        "L": L,
        "ModelCheckpoint": ModelCheckpoint,
        "model": Linear(),
        "datamodule": datamodule,
    }
    exec(code.replace("L.Trainer(", "L.Trainer(accelerator='cpu', logger=False, "), names)
    assert names["trainer"].global_step == 20
    assert Path(tmp_path / "run").is_dir() or lightning_dga.newest_checkpoint("run") is None
