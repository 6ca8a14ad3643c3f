"""The package works under either name of Lightning, whichever is imported first, and under one of them alone."""

import subprocess
import sys

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


@pytest.mark.parametrize(
    ("before", "imports", "other", "imported"),
    [
        ("", f"{NEW}\n{OURS}", "pytorch_lightning", False),
        ("", f"{OLD}\n{OURS}", "lightning.pytorch", False),
        ("", f"{OURS}\n{NEW}", "pytorch_lightning", True),
        ("", f"{OURS}\n{OLD}", "lightning.pytorch", True),
        (ABSENT, f"{OURS}\n{NEW}", "pytorch_lightning", False),
    ],
    ids=["lightning first", "pytorch_lightning first", "ours, lightning", "ours, pytorch_lightning", "lightning alone"],
)
def test_it_works_under_either_name(before, imports, other, imported):
    program = PROGRAM.format(before=before, imports=imports, other=other)
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=800)
    assert run.returncode == 0, run.stderr[-2000:]
    assert f"other name imported: {imported}" in run.stdout
    if not (imported and imports.endswith(OLD)):
        # no complaint about a loader that nobody gave; where both names are in play, only lightning's can be told
        assert "val_dataloader" not in run.stderr
