"""The package works under either name of Lightning, whichever is imported first, and under one of them alone."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
{before}
import torch
{imports}
from torch.utils.data import TensorDataset


class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


data = MixtureDataModule({{"a": TensorDataset(torch.randn(9, 3)), "b": TensorDataset(torch.randn(9, 3))}},
                         TensorDataset(torch.randn(9, 3)), batch_size=2)
callback = DynamicGradientAlignment(every_n_steps=2)
trainer = pl.Trainer(max_steps=4, accelerator="cpu", callbacks=[callback, MixtureProgressBar()], logger=False,
                     enable_checkpointing=False)
trainer.fit(Model(), datamodule=data)
assert callback.alignments.step == 4
try:
    DynamicGradientAlignment(loss_fn=None).setup(pl.Trainer(accelerator="cpu", logger=False), None, "fit")
except MisconfigurationException as error:
    assert "MixtureDataModule" in str(error)
print("other name imported:", "{other}" in sys.modules)
"""
OURS = """from lightning_dga import DynamicGradientAlignment, MixtureDataModule
from lightning_dga.callbacks.progress_bar import MixtureProgressBar"""
NEW = "import lightning.pytorch as pl\nfrom lightning.pytorch.utilities.exceptions import MisconfigurationException"
OLD = "import pytorch_lightning as pl\nfrom pytorch_lightning.utilities.exceptions import MisconfigurationException"
ABSENT = """import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "pytorch_lightning" else find(name, *more)"""


CASES = {
    "lightning first": ("", f"{NEW}\n{OURS}", "pytorch_lightning", False),
    "pytorch_lightning first": ("", f"{OLD}\n{OURS}", "lightning.pytorch", False),
    "ours, lightning": ("", f"{OURS}\n{NEW}", "pytorch_lightning", True),
    "ours, pytorch_lightning": ("", f"{OURS}\n{OLD}", "lightning.pytorch", True),
    "lightning alone": (ABSENT, f"{OURS}\n{NEW}", "pytorch_lightning", False),
}
# each program in a fork of a process that knows neither name, but has imported what both need seconds to import
RUN_EACH = """
import os, runpy, sys
import torch, torch._dynamo, torchmetrics

assert "lightning" not in sys.modules and "pytorch_lightning" not in sys.modules
for program in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        os.dup2(os.open(f"{program}.out", os.O_WRONLY | os.O_CREAT), 1)
        os.dup2(os.open(f"{program}.err", os.O_WRONLY | os.O_CREAT), 2)
        runpy.run_path(program, run_name="__main__")
        print("ended well")
        break
    os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What the program of each case printed, and its errors."""
    files = {name: tmp_path_factory.mktemp("program") / "program.py" for name in CASES}
    for name, file in files.items():
        before, imports, other, _ = CASES[name]
        file.write_text(PROGRAM.format(before=before, imports=imports, other=other))
    subprocess.run([sys.executable, "-c", RUN_EACH, *map(str, files.values())], check=True, timeout=800)
    return {name: [Path(f"{file}.{kind}").read_text() for kind in ("out", "err")] for name, file in files.items()}


@pytest.mark.parametrize("case", CASES)
def test_it_works_under_either_name(printed, case):
    _, imports, _, imported = CASES[case]
    out, err = printed[case]
    assert out.endswith("ended well\n"), err[-2000:]
    assert f"other name imported: {imported}" in out
    if not (imported and imports.endswith(OLD)):
        # no complaint about a loader that nobody gave; where both names are in play, only lightning's can be told
        assert "val_dataloader" not in err
