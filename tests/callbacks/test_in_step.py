"""Alignments from training's own gradients equal the float64 reference on the samples of the step."""

import copy

import pytest
import torch
from lightning.pytorch import Callback

from lightning_dga import DynamicGradientAlignment
from tests.helpers.reference import gradient
from tests.helpers.toys import BySample, Plain, half_precision, mixture, trainer

PURE, MIXED, ALIKE = {"batch_size": 1}, {"batch_size": 6}, {"batch_size": 4, "pure_batches": True}


class CompareStep(Callback):
    """Keeps each optimizer step's parameters and batches, and what the reference makes of them."""

    def __init__(self, callback, k=3):
        self.callback, self.k, self.pairs = callback, k, []
        self.batches = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if not self.batches:
            self.module = copy.deepcopy(pl_module)
            for module in self.module.modules():
                vars(module).pop("forward", None)
            self.target = trainer.datamodule.probes(self.callback._loop.progress.updates, 30).target()
        self.batches.append((torch.from_numpy(trainer.datamodule.current_batch.domains), batch))
        self.steps = trainer.global_step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        found = self.callback.alignments
        if trainer.global_step == self.steps:
            return
        batches, self.batches = self.batches, []
        if found is not None and found.step == self.steps:
            self.pairs.append((found, *self.expected(batches)))

    def expected(self, batches):
        target = gradient(self.module, Plain.loss, [(len(p.domains), p.batch) for p in self.target])
        values, counts = torch.full((self.k,), torch.nan, dtype=torch.float64), torch.zeros(self.k, dtype=torch.int64)
        for domain in range(self.k):
            own = [(int((d == domain).sum()), [part[d == domain] for part in batch]) for d, batch in batches]
            own = [(count, batch) for count, batch in own if count]
            counts[domain] = sum(count for count, _ in own)
            if own:
                values[domain] = gradient(self.module, Plain.loss, own) @ target
        return values, counts


@pytest.mark.parametrize("data", [PURE, MIXED, ALIKE], ids=["one sample", "many domains", "one domain"])
@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({}, 1e-5),
        ({"precision": "bf16-mixed"}, 1e-2),
        ({"plugins": half_precision}, 3e-3),
        ({"gradient_clip_val": 1e-3}, 1e-5),
    ],
    ids=["fp32", "bf16-mixed", "fp16 with a scaler", "clipping"],
)
@pytest.mark.parametrize("accumulated", [1, 5])
def test_they_equal_the_reference(data, settings, tolerance, accumulated):
    settings = {name: value() if callable(value) else value for name, value in settings.items()}
    callback = DynamicGradientAlignment(every_n_steps=2, estimator="in_step", probe_batch_size=30)
    compare = CompareStep(callback)
    fit = trainer(callback, compare, max_steps=8, accumulate_grad_batches=accumulated, **settings)
    fit.fit(BySample(), datamodule=mixture(**data))
    assert len(compare.pairs) == 4
    for found, values, counts in compare.pairs:
        now = found.ages == 0
        assert torch.equal(now, counts > 0)
        assert torch.equal(found.counts[now], counts[now])
        scale = max(values[now].abs().max().item(), found.target_norm**2)
        assert ((found.values - values)[now].abs().max() / scale).item() < tolerance


def test_a_domain_that_no_step_held_is_carried_and_then_probed():
    callback = DynamicGradientAlignment(every_n_steps=1, estimator="in_step", rule="static", max_age=3)
    seen = []

    class Note(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            found = callback.alignments
            seen.append((found.ages[2].item(), found.counts[2].item(), found.values[2].item()))

    data = mixture(batch_size=1, weights=[1, 1, 0])
    trainer(callback, Note(), max_steps=9, accumulate_grad_batches=1).fit(Plain(), datamodule=data)
    assert [age for age, _, _ in seen] == [1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert [count for _, count, _ in seen] == [0, 0, 0, 4, 4, 4, 4, 4, 4]
    assert seen[3][2] == seen[4][2] == seen[6][2] != seen[7][2]


def losses_of(callback, **settings):
    torch.manual_seed(0)
    module, batch_size = BySample(dropout=0.3), settings.pop("batch_size", 6)
    fit = trainer(*([callback] if callback else []), max_steps=6, **settings)
    fit.fit(module, datamodule=mixture(batch_size=batch_size))
    return [loss.item() for loss in module.by_kind["loss"]], module.state_dict()


@pytest.mark.parametrize("batch_size", [1, 6])
@pytest.mark.parametrize("accumulated", [1, 3])
def test_training_is_bitwise_as_without_it(accumulated, batch_size):
    callback = DynamicGradientAlignment(every_n_steps=2, estimator="in_step", rule="static")
    settings = {"accumulate_grad_batches": accumulated, "gradient_clip_val": 0.1, "batch_size": batch_size}
    losses, state = losses_of(callback, **settings)
    plain_losses, plain_state = losses_of(None, **settings)
    assert losses == plain_losses
    assert all(torch.equal(state[name], plain_state[name]) for name in plain_state)


def test_nothing_stays_on_the_model_when_training_is_cut_short():
    class Interrupted(Plain):
        def on_after_backward(self):
            raise KeyboardInterrupt

        def training_step(self, batch, batch_idx):
            assert not self.training or any(p._backward_hooks for p in self.parameters())
            return super().training_step(batch, batch_idx)

    callback, module = DynamicGradientAlignment(every_n_steps=1, estimator="in_step"), Interrupted()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer(callback).fit(module, datamodule=mixture(**PURE))
    assert not any(p._backward_hooks for p in module.parameters())


def run_ddp(folder, ranks, batch_size=1):
    torch.manual_seed(0)
    callback = DynamicGradientAlignment(every_n_steps=2, estimator="in_step", max_age=2, probe_batch_size=12)

    class Save(Callback):
        def on_train_end(self, trainer, pl_module):
            state = {**callback.alignments.state_dict(), "weights": trainer.datamodule.weights}
            torch.save(state, folder / f"{trainer.world_size}-{trainer.global_rank}.pt")

    strategy = {"strategy": "ddp_fork", "devices": ranks} if ranks > 1 else {}
    fit = trainer(callback, Save(), max_steps=8, accumulate_grad_batches=4 // ranks, **strategy)
    fit.fit(BySample(), datamodule=mixture(batch_size=batch_size))
    return [torch.load(folder / f"{ranks}-{rank}.pt", weights_only=True) for rank in range(ranks)]


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("ranks", [2, 4])
def test_processes_measure_what_one_does_on_all_their_batches(tmp_path, ranks, batch_size):
    (one,), many = run_ddp(tmp_path, 1, batch_size), run_ddp(tmp_path, ranks, batch_size)
    for process in many:
        assert torch.equal(process["counts"], one["counts"])
        torch.testing.assert_close(process["values"], one["values"], rtol=1e-4, atol=1e-5)
        assert process["weights"].numpy().tobytes() == many[0]["weights"].numpy().tobytes()
