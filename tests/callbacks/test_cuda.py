"""The callback on a CUDA GPU: float16 with a real scaler, and no synchronisation in steps that do not align."""

import warnings

import pytest
import torch
from lightning.pytorch import Callback

from lightning_dga import DynamicGradientAlignment
from tests.callbacks.test_in_step import CompareStep
from tests.helpers.reference import Compare
from tests.helpers.reference import alignments as reference
from tests.helpers.toys import BySample, mixture, trainer

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here"),
]
ON_GPU = {"accelerator": "gpu", "devices": 1}


class CompareStepOnHost(CompareStep):
    """Computes the reference on the CPU, where the probes are."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self.module.cpu()
        domains, batch = self.batches[-1]
        self.batches[-1] = domains, [part.cpu() for part in batch]


def check(found, values, tolerance):
    measured = (found.counts > 0) & (found.ages == 0)
    scale = max(values[measured].abs().max().item(), found.target_norm**2)
    assert ((found.values - values)[measured].abs().max() / scale).item() < tolerance


PRECISIONS = pytest.mark.parametrize(
    ("precision", "tolerance"), [("32-true", 1e-4), ("bf16-mixed", 2e-2), ("16-mixed", 5e-3)]
)


@PRECISIONS
@pytest.mark.parametrize("data", [{"batch_size": 6}, {"batch_size": 1}], ids=["many domains", "one domain"])
def test_a_watched_step_equals_the_reference(data, precision, tolerance):
    callback = DynamicGradientAlignment(2, estimator="in_step", rule="static", probe_batch_size=30)
    compare = CompareStepOnHost(callback)
    # the scale of 16-mixed starts at 65,536 and may have to fall first
    fit = trainer(callback, compare, max_steps=20, accumulate_grad_batches=2, precision=precision, **ON_GPU)
    fit.fit(BySample(), datamodule=mixture(**data))
    assert len(compare.pairs) >= 5
    for found, values, _ in compare.pairs:
        check(found, values, tolerance)


@PRECISIONS
@pytest.mark.parametrize("estimator", ["backward", "batched"])
def test_probes_equal_the_reference(estimator, precision, tolerance):
    callback = DynamicGradientAlignment(2, estimator=estimator, rule="static", probe_batch_size=4)
    data, updates = mixture(batch_size=6), []

    def expected(fit, module):
        updates.append(callback._loop.progress.updates - 1)
        host = BySample()
        host.load_state_dict(module.state_dict())
        return reference(host, BySample.alignment_loss, data, updates[-1], 4, 3)

    compare = Compare(callback, expected)
    trainer(callback, compare, max_steps=20, precision=precision, **ON_GPU).fit(BySample(), datamodule=data)
    assert len(compare.pairs) >= 5
    for found, values in compare.pairs:
        check(found, values, tolerance)


class Kept(Callback):
    def on_train_end(self, trainer, pl_module):
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self.scaler = scaler.state_dict() if scaler is not None else None
        self.random = torch.cuda.get_rng_state()


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
@pytest.mark.parametrize("estimator", ["backward", "batched", "in_step"])
def test_training_is_bitwise_as_without_it(estimator, precision):
    runs = []
    for callbacks in ([DynamicGradientAlignment(2, estimator=estimator, rule="static")], []):
        torch.manual_seed(0)
        module, kept = BySample(dropout=0.3), Kept()
        fit = trainer(*callbacks, kept, max_steps=12, precision=precision, gradient_clip_val=0.1, **ON_GPU)
        fit.fit(module, datamodule=mixture(batch_size=6))
        losses = [loss.item() for loss in module.by_kind["loss"]]
        runs.append((losses, kept.scaler, kept.random.tolist(), [p.tolist() for p in module.parameters()]))
    assert runs[0] == runs[1]


class Synchronisations(Callback):
    """Counts, for each batch, the calls that wait for the GPU; ``begin`` stands first, and ``end`` last."""

    def __init__(self):
        self.counts, self.begin, self.end = [], Callback(), Callback()
        self.begin.on_train_batch_start, self.end.on_train_batch_end = self.started, self.ended

    def started(self, *_):
        self.caught = warnings.catch_warnings(record=True)
        self.messages = self.caught.__enter__()
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")

    def ended(self, *_):
        torch.cuda.set_sync_debug_mode("default")
        self.caught.__exit__(None, None, None)
        self.counts.append(sum("synchronizing CUDA operation" in str(one.message) for one in self.messages))


@pytest.mark.parametrize("estimator", ["backward", "batched", "in_step", "auto"])
def test_steps_that_do_not_align_wait_for_nothing_more_than_training_does(estimator):
    period, counts = 4, []
    for callbacks in ([DynamicGradientAlignment(period, estimator=estimator)], []):
        waits = Synchronisations()
        fit = trainer(waits.begin, *callbacks, waits.end, max_steps=16, **ON_GPU)
        fit.fit(BySample(), datamodule=mixture(batch_size=6))
        counts.append(waits.counts)
    aligning = [(step + 1) % period == 0 for step in range(16)]
    with_it, without = counts
    assert [n for n, aligns in zip(with_it, aligning, strict=True) if not aligns] == [
        n for n, aligns in zip(without, aligning, strict=True) if not aligns
    ]
    # or nothing would have been counted at all
    assert sum(n for n, aligns in zip(with_it, aligning, strict=True) if aligns) > sum(without) / period
