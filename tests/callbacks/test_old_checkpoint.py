"""A checkpoint that an earlier version wrote, before modules stood in rooms, is resumed by this one.

`tests/fixtures/0.1.0.dev-step9.ckpt` is of the run below at nine steps: weights 0.1358, 0.8120, 0.0522, set three
times, after 13, 15 and 8 samples of the domains.
"""

from pathlib import Path

import pytest
import torch

from lightning_dga import DynamicGradientAlignment, MixtureDataModule
from tests.helpers.toys import Plain, Points, trainer

CHECKPOINT = Path(__file__).parents[1] / "fixtures" / "0.1.0.dev-step9.ckpt"


class Begins(DynamicGradientAlignment):
    """Remembers the mixture that training begins with."""

    def on_train_start(self, trainer, pl_module):
        super().on_train_start(trainer, pl_module)
        self.begun = trainer.datamodule.weights, trainer.datamodule.samples_seen, trainer.datamodule.weights_version


# the state of a callback is found by its class
Begins.__qualname__ = DynamicGradientAlignment.__qualname__


@pytest.mark.parametrize("weights_only", [True, False])
def test_it_goes_on_from_where_it_was(weights_only, tmp_path):
    data = MixtureDataModule(
        {f"domain{i}": Points(i, 20 + i) for i in range(3)}, Points(1, 12), batch_size=4, target_batch_size=6
    )
    dga = Begins(3, estimator="backward", probe_batch_size=2)
    fit = trainer(dga, max_steps=15, default_root_dir=tmp_path)
    fit.fit(Plain(), datamodule=data, ckpt_path=CHECKPOINT, weights_only=weights_only)
    weights, seen, version = dga.begun
    torch.testing.assert_close(weights, torch.tensor([0.1358, 0.8120, 0.0522]).double(), rtol=0, atol=5e-5)
    assert seen.tolist() == [13, 15, 8]
    assert version == 3
    assert fit.global_step == 15
    assert dga.alignments.step == 15
    assert data.samples_seen.sum() == 60
