"""The README's code runs, and its commands exist."""

import re
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
import torch
from torch.utils.data import TensorDataset

from tests.toys import Linear

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def test_the_three_lines_run():
    (code,) = blocks("python")
    data = {name: TensorDataset(torch.randn(200, 3)) for name in ("wiki", "code", "target")}
    code = code.replace("L.Trainer(", "L.Trainer(max_steps=100, accelerator='cpu', logger=False, ")
    code = code.replace("num_workers=4", "num_workers=1").replace(
        "logger=False, ", "logger=False, enable_checkpointing=False, "
    )
    names = {**data, "L": L, "model": Linear()}
    exec(code, names)
    assert names["trainer"].callbacks[0].alignments.step == 100


@pytest.mark.parametrize("command", re.findall(r"^dga-train .*$", README, flags=re.MULTILINE))
def test_every_dga_train_command_composes(command):
    overrides = [word for word in command.split()[1:] if word not in ("-m",)]
    arguments = [sys.executable, "-m", "lightning_dga.train", "--cfg", "job"]
    # a sweep's lists are for the sweeper; one of each is composed here
    overrides = [re.sub(r"=([^,]*),.*", r"=\1", override) for override in overrides]
    done = subprocess.run([*arguments, *overrides], capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr[-1000:]
    assert "callbacks:" in done.stdout


def test_the_make_targets_exist():
    makefile = (Path(__file__).parent.parent / "Makefile").read_text()
    for target in re.findall(r"^make (\S+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
