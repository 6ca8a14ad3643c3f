"""Sharded training through Lightning's ``ModelParallelStrategy``, on two ranks."""

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.distributed.tensor import DTensor

from lightning_dga import DynamicGradientAlignment
from lightning_dga.models import GPT
from tests.helpers.processes import together
from tests.helpers.toys import StopAt, trainer
from tests.helpers.zoo import LENGTH, VOCABULARY, WIDTH, Samples, mixture, sequence

pytestmark = pytest.mark.cluster


class History(Callback):
    """All that sharded training can see, after every batch."""

    def __init__(self, callback=None):
        self.callback, self.rows, self.measured, self.step = callback, [], [], 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        found = self.callback.alignments if self.callback is not None else None
        # in a step that is watched, the measurement is of the parameters before it
        now = found is not None and found.step in (trainer.global_step - 1, trainer.global_step)
        if now and trainer.global_step > self.step and found.step not in [one["step"] for one in self.measured]:
            self.measured.append({**found.state_dict(), "weights": trainer.datamodule.weights})
        self.step = trainer.global_step
        parameters = dict(pl_module.named_parameters())
        self.rows.append(
            {
                "loss": outputs["loss"].item(),
                "sharded": all(isinstance(p, DTensor) for p in parameters.values()),
                "parameters": {name: here(p) for name, p in parameters.items()},
                "gradients": {name: here(p.grad) for name, p in parameters.items()},
                "optimizer": [
                    here(value) for state in trainer.optimizers[0].state.values() for value in state.values()
                ],
                "random": torch.get_rng_state(),
                "samples": trainer.datamodule.current_batch.domains.tolist(),
            }
        )


def here(tensor):
    """A copy of this rank's part."""
    if tensor is None:
        return None
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach().clone()


def run(
    rule=None, estimator="backward", ranks=2, dropout=0.0, save=None, ckpt_path=None, sharding=None, probe=5, **settings
):
    seed_everything(0, verbose=False)
    callback = None
    if rule is not None:
        step_size = 3.0 if rule == "dga" else None
        callback = DynamicGradientAlignment(2, step_size, rule=rule, estimator=estimator, probe_batch_size=probe)
    history = History(callback)
    callbacks = [one for one in (callback, history) if one is not None]
    if save is not None:
        callbacks.append(ModelCheckpoint(save, filename="middle", every_n_train_steps=3))
        callbacks.append(StopAt(3))
    if ranks > 1:
        sharding = {"data_parallel_size": ranks, "tensor_parallel_size": 1, **(sharding or {})}
        settings |= {"strategy": ModelParallelStrategy(**sharding), "devices": ranks}
    fit = trainer(*callbacks, **{"max_steps": 6, **settings}, enable_checkpointing=save is not None)
    model = GPT(VOCABULARY, context_length=LENGTH, d_model=WIDTH, num_layers=2, num_heads=2, dropout=dropout)
    data = mixture(sequence, batch_size=8 // ranks, val=Samples(9, 8, sequence))
    fit.fit(model, datamodule=data, ckpt_path=ckpt_path)
    return {"rows": history.rows, "measured": history.measured}


def run_twice(first, *others):
    """Runs in the same processes, one after another."""
    return [run(**settings) for settings in (first, *others)]


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("estimator", ["backward", "in_step"])
def test_two_processes_measure_what_one_does_and_hold_the_same_weights(estimator):
    # a rule that moves at its first update; a step holds at most eight samples of a domain
    settings = {"rule": "dga_paper", "estimator": estimator, "probe": 8 if estimator == "in_step" else 5}
    (first,), (second,) = together(run_twice, 2, settings)
    alone = run(ranks=1, **settings)
    assert len(alone["measured"]) == 3
    for one, together_, other in zip(alone["measured"], first["measured"], second["measured"], strict=True):
        same(together_, other)
        scale = max(one["values"].abs().max().item(), one["target_norm"] ** 2)
        assert ((together_["values"] - one["values"]).abs().max() / scale).item() < 1e-4
        torch.testing.assert_close(together_["weights"], one["weights"], rtol=1e-3, atol=1e-5)
    weights = first["measured"][-1]["weights"]
    assert weights.max() - weights.min() > 0.02
    assert all(row["sharded"] for row in first["rows"]) and not alone["rows"][0]["sharded"]


@pytest.mark.parametrize(
    ("estimator", "settings"),
    [
        ("backward", {"num_sanity_val_steps": 2, "val_check_interval": 2, "gradient_clip_val": 0.1}),
        ("backward", {"accumulate_grad_batches": 2, "max_steps": 4}),
        ("backward", {"precision": "bf16-true"}),
        ("finite_difference", {"num_sanity_val_steps": 2, "val_check_interval": 2}),
        ("in_step", {"num_sanity_val_steps": 2, "val_check_interval": 2, "gradient_clip_val": 0.1}),
        ("in_step", {"accumulate_grad_batches": 2, "max_steps": 4}),
    ],
    ids=[
        "validation and clipping",
        "accumulation",
        "bf16",
        "finite_difference",
        "in_step, validation and clipping",
        "in_step, accumulation",
    ],
)
def test_static_training_is_bitwise_the_same(estimator, settings):
    settings = {"estimator": estimator, "dropout": 0.1, "check_val_every_n_epoch": None, **settings}
    for with_it, without in together(run_twice, 2, {"rule": "static", **settings}, settings):
        assert with_it["measured"] and not without["measured"]
        same(with_it["rows"], without["rows"])


@pytest.mark.parametrize("distributed", [True, False], ids=["checkpoint in shards", "checkpoint in one file"])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, distributed):
    settings = {"rule": "dga", "sharding": {"save_distributed_checkpoint": distributed}}
    interrupted = {**settings, "save": tmp_path}
    resumed = {**settings, "ckpt_path": tmp_path / "middle.ckpt"}
    for whole, _, rest in together(run_twice, 2, settings, interrupted, resumed):
        for key in ("loss", "parameters", "samples"):
            same([row[key] for row in rest["rows"]], [row[key] for row in whole["rows"][3:]])
        same(rest["measured"], whole["measured"][1:])


def tensor_parallel():
    try:
        run("dga", sharding={"data_parallel_size": 1, "tensor_parallel_size": 2})
    except MisconfigurationException as refusal:
        return str(refusal)


def test_tensor_parallelism_is_refused():
    for said in together(tensor_parallel, 2):
        assert "tensor_parallel_size=1" in said
