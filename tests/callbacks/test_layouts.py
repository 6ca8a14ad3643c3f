"""The same global batch gives the same weights and alignments with any world size."""

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.tensor import DTensor

from lightning_dga import DynamicGradientAlignment
from lightning_dga.models import GPT
from tests.helpers.processes import together
from tests.helpers.toys import StopAt, trainer
from tests.helpers.zoo import LENGTH, VOCABULARY, WIDTH, mixture, sequence

pytestmark = pytest.mark.cluster
BATCH = 4


class History(Callback):
    def __init__(self, callback):
        self.callback, self.rows = callback, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        data, found = trainer.datamodule, self.callback.alignments
        values = torch.stack([found.values, data.weights]) if found is not None else torch.zeros(2, 3)
        norm = found.target_norm if found is not None else 1.0
        self.rows.append((data.current_batch.start, values, norm))


def run(strategy, ranks, replicas=1, save=None, ckpt_path=None):
    """A run of six steps; one that saves ends after three."""
    seed_everything(0, verbose=False)
    callback = DynamicGradientAlignment(2, 3.0, estimator="backward", probe_batch_size=4)
    history = History(callback)
    how = {"ddp": "ddp", "fsdp2": ModelParallelStrategy(ranks, 1)}[strategy] if ranks > 1 else "auto"
    callbacks = [ModelCheckpoint(save, filename="middle", every_n_train_steps=3), StopAt(3)] if save else []
    fit = trainer(
        callback, history, *callbacks, max_steps=6, strategy=how, devices=ranks, enable_checkpointing=bool(save)
    )

    # in float64, and by a plain optimizer: sums are rounded differently in each layout, and Adam's first steps make a
    # whole step of whatever is left of a gradient
    class Model(GPT):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    model = Model(VOCABULARY, LENGTH, WIDTH, num_layers=2, num_heads=2, replicas=replicas).double()
    fit.fit(model, datamodule=mixture(sequence, batch_size=BATCH // ranks), ckpt_path=ckpt_path)
    parameters = {
        name: (p.full_tensor() if isinstance(p, DTensor) else p).detach() for name, p in model.named_parameters()
    }
    placements = {tuple(p.placements) for p in model.parameters() if isinstance(p, DTensor)}
    return {"rows": history.rows, "parameters": parameters, "placements": [str(p) for p in placements]}


def assert_same(a, b, first=0):
    assert [row[0] for row in a["rows"]] == [row[0] for row in b["rows"][first:]]
    for (_, one, norm), (_, other, _) in zip(a["rows"], b["rows"][first:], strict=True):
        assert ((one[0] - other[0]).abs().max() / max(one[0].abs().max().item(), norm**2)).item() < 1e-6
        torch.testing.assert_close(one[1], other[1], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(a["parameters"], b["parameters"], rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def alone():
    found = run("ddp", 1)
    weights = found["rows"][-1][1][1]
    assert weights.max() - weights.min() > 0.02, "the weights must move for this to show anything"
    return found


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_one_global_batch_is_one_result(alone, strategy, ranks):
    for process in together(run, ranks, strategy, ranks):
        assert_same(process, alone)
        assert bool(process["placements"]) == (strategy == "fsdp2")


def test_copies_in_shards(alone):
    for process in together(run, 4, "fsdp2", 4, 2):
        assert_same(process, alone)
        assert all("Replicate" in one and "Shard" in one for one in process["placements"])


@pytest.mark.parametrize(("before", "after"), [(4, 2), (2, 4)])
def test_shards_resume_on_another_number_of_processes(tmp_path, alone, before, after):
    together(run, before, "fsdp2", before, 1, tmp_path)
    checkpoint = tmp_path / "middle.ckpt"
    assert checkpoint.is_dir()
    for process in together(run, after, "fsdp2", after, 1, None, checkpoint):
        assert_same(process, alone, first=3)


def test_copies_in_shards_resume_as_shards_alone(tmp_path, alone):
    together(run, 4, "fsdp2", 4, 2, tmp_path)
    for process in together(run, 2, "fsdp2", 2, 1, None, tmp_path / "middle.ckpt"):
        assert_same(process, alone, first=3)
