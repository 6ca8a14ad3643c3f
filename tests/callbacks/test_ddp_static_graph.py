"""Probes do not count as passes of `DistributedDataParallel`, whatever its settings for the graph."""

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.utils.checkpoint import checkpoint

from lightning_dga import DynamicGradientAlignment
from tests.helpers.toys import Plain, mixture, trainer

pytestmark = pytest.mark.cluster


class Unused(Plain):
    def __init__(self, reentrant, unused):
        super().__init__()
        self.reentrant, self.unused = reentrant, unused
        # only evaluation mode, in which probes run, has a use of it
        self.extra = nn.Linear(1, 1)

    def alignment_loss(self, batch):
        hidden = self.layers[:2](batch[0])
        inner = self.layers[2:]
        hidden = checkpoint(inner, hidden, use_reentrant=True) if self.reentrant else inner(hidden)
        if not self.unused or not self.training:
            hidden = hidden + 0 * self.extra(hidden)
        return ((hidden - batch[1]) ** 2).squeeze(1)

    def training_step(self, batch, batch_idx):
        return self.alignment_loss(batch).mean()


class Save(Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_train_end(self, trainer, pl_module):
        state = {name: parameter.detach() for name, parameter in pl_module.named_parameters()}
        torch.save(state, self.folder / f"{trainer.global_rank}.pt")


def run(folder, *callbacks, reentrant=False, batch_size=4, unused=False, **settings):
    folder.mkdir()
    torch.manual_seed(0)
    strategy = DDPStrategy(start_method="fork", **settings)
    fit = trainer(*callbacks, Save(folder), max_steps=5, strategy=strategy, devices=2)
    fit.fit(Unused(reentrant, unused), datamodule=mixture(batch_size=batch_size))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


CASES = {
    "static": {"static_graph": True},
    "static, reentrant": {"static_graph": True, "reentrant": True},
    "static, reentrant, one sample": {"static_graph": True, "reentrant": True, "batch_size": 1},
    "static, views of buckets": {"static_graph": True, "gradient_as_bucket_view": True},
    "unused": {"find_unused_parameters": True, "unused": True},
    "unused, reentrant": {"static_graph": True, "reentrant": True, "unused": True},
}


@pytest.mark.parametrize("estimator", ["auto", "backward"])
@pytest.mark.parametrize("name", CASES)
def test_training_is_bitwise_as_without_it_on_both_ranks(tmp_path, name, estimator):
    plain, _ = run(tmp_path / "plain", **CASES[name])
    callback = DynamicGradientAlignment(2, rule="static", estimator=estimator, probe_batch_size=2)
    for own in run(tmp_path / "ours", callback, **CASES[name]):
        assert all(torch.equal(own[parameter], plain[parameter]) for parameter in plain)
