"""The alignments that the callback measures in training equal the float64 reference at the same parameters."""

import copy

import pytest
import torch
from lightning.pytorch import Callback

from lightning_dga import DynamicGradientAlignment
from tests.helpers.reference import Compare
from tests.helpers.reference import alignments as reference
from tests.helpers.toys import Plain, half_precision, mixture, trainer


def plain_loss(module, batch):
    return module.loss(batch)


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({}, 1e-5),
        ({"precision": "64-true"}, 1e-12),
        ({"precision": "bf16-mixed"}, 2e-2),
        ({"plugins": half_precision}, 2e-3),
        ({"precision": "bf16-true"}, 2e-2),
        ({"accumulate_grad_batches": 2}, 1e-5),
    ],
    ids=["fp32", "fp64", "bf16-mixed", "fp16 with a scaler", "bf16-true", "accumulation"],
)
@pytest.mark.parametrize("loss_fn", [None, plain_loss], ids=["training_step", "loss_fn"])
def test_they_equal_the_reference(settings, tolerance, loss_fn):
    settings = {name: value() if callable(value) else value for name, value in settings.items()}
    callback = DynamicGradientAlignment(every_n_steps=2, estimator="backward", loss_fn=loss_fn, probe_batch_size=3)

    def expected(trainer, module):
        update = trainer.global_step // 2 - 1
        return reference(copy.deepcopy(module), plain_loss, trainer.datamodule, update, callback.probe_batch_size, 3)

    compare = Compare(callback, expected)
    trainer(callback, compare, max_steps=6, **settings).fit(Plain(dropout=0.2, norm=True), datamodule=mixture())
    assert len(compare.pairs) == 3
    for found, expected in compare.pairs:
        scale = max(expected.abs().max().item(), found.target_norm**2)
        assert ((found.values - expected).abs().max() / scale).item() < tolerance


def test_one_alignment_for_each_optimizer_step_boundary():
    steps = []

    class Note(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            found = callback.alignments
            steps.append((batch_idx, found.step if found else 0, callback._loop.progress.updates))

    callback = DynamicGradientAlignment(every_n_steps=2)
    trainer(callback, Note(), max_steps=4, accumulate_grad_batches=3).fit(Plain(), datamodule=mixture())
    updates = [updates for _, _, updates in steps]
    assert updates == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2]


def test_the_weights_move_toward_the_aligned_domain():
    data = mixture(k=3, size=60, target_batch_size=12)  # the target is drawn like domain1
    callback = DynamicGradientAlignment(every_n_steps=2, probe_batch_size=16)
    trainer(callback, max_steps=60).fit(Plain(lr=0.01), datamodule=data)
    assert data.weights.argmax() == 1
    assert data.weights[1] > 0.5
    assert data.weights_version == callback._loop.progress.weights_version > 10


def test_a_schedule_of_ones_own():
    class Early(DynamicGradientAlignment):
        def should_update(self, step):
            return step in (1, 2, 5)

    callback = Early(every_n_steps=1)
    trainer(callback, max_steps=6).fit(Plain(), datamodule=mixture())
    assert callback.alignments.step == 5
    assert callback._loop.progress.updates == 3


def test_never_measuring_leaves_the_rules_first_weights():
    callback = DynamicGradientAlignment(every_n_steps=None, rule="uniform")
    data = mixture(weights=[1, 2, 3])
    trainer(callback, max_steps=6).fit(Plain(), datamodule=data)
    assert data.weights.tolist() == [1 / 3] * 3
    assert callback.alignments is None and callback.seconds == 0


def test_a_target_gradient_that_is_not_finite_is_skipped_with_a_warning():
    def loss(module, batch):
        return module.loss(batch) * float("nan")

    data = mixture()
    with pytest.warns(UserWarning, match="target gradient is not finite at step 2"):
        trainer(DynamicGradientAlignment(every_n_steps=2, loss_fn=loss), max_steps=2).fit(Plain(), datamodule=data)
    assert data.weights_version == 0


def test_a_second_run_goes_on_with_the_mixture():
    callback, data = DynamicGradientAlignment(every_n_steps=2), mixture()
    trainer(callback, max_steps=6).fit(Plain(), datamodule=data)
    weights = data.weights
    trainer(callback, max_steps=3).fit(Plain(), datamodule=data)
    assert callback.alignments.step == 2
    assert callback._loop.progress.updates == 4
    assert not torch.equal(data.weights, weights)
