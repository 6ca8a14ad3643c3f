"""With a rule that never moves the weights, training is bitwise the same with and without the callback."""

import copy
import random
from functools import partial

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, seed_everything

from lightning_dga import DynamicGradientAlignment
from tests.helpers.toys import Plain, half_precision, mixture, trainer


class Watch(Callback):
    """Everything that training can see, after every batch; put behind the callback under test."""

    def __init__(self):
        self.history = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self.history.append(
            copy.deepcopy(
                {
                    "module": pl_module.state_dict(),
                    "gradients": {name: p.grad for name, p in pl_module.named_parameters()},
                    "optimizer": trainer.optimizers[0].state_dict(),
                    "scaler": scaler.state_dict() if scaler else None,
                    "modes": [child.training for child in pl_module.modules()],
                    "requires_grad": [p.requires_grad for p in pl_module.parameters()],
                    "metric": pl_module.error.metric_state,
                    "calls": pl_module.calls,
                    "seen": pl_module.seen,
                    # the callback's own metrics stand beside them
                    "logged": {
                        name: value.item()
                        for name, value in trainer.callback_metrics.items()
                        if not name.startswith("dga/")
                    },
                    "random": (random.random(), np.random.rand(), torch.get_rng_state()),
                    "samples": trainer.datamodule.current_batch.domains,
                }
            )
        )


class Noisy(Plain):
    """Draws random numbers of every kind in its step, as data augmentation does."""

    def training_step(self, batch, batch_idx):
        noise = torch.rand(1) + random.random() + float(np.random.rand())
        return super().training_step([batch[0] + 0.1 * noise, *batch[1:]], batch_idx)


# the first growth or backoff of the scale shows
SCALED = partial(half_precision, growth_interval=3)
CASES = {
    "fp32": {},
    "bf16-mixed": {"precision": "bf16-mixed"},
    "bf16-true": {"precision": "bf16-true"},
    "fp16 with a scaler": {"plugins": SCALED},
    "accumulation": {"accumulate_grad_batches": 3},
    "fp16 and accumulation": {"plugins": SCALED, "accumulate_grad_batches": 3},
    "clipping": {"gradient_clip_val": 0.1},
}


def run(case, *callbacks, **module):
    settings = {name: value() if callable(value) else value for name, value in CASES[case].items()}
    seed_everything(0, verbose=False)
    watch = Watch()
    fit = trainer(*callbacks, watch, max_steps=7, log_every_n_steps=2, **settings)
    fit.fit(Noisy(dropout=0.2, norm=True, **module), datamodule=mixture(batch_size=6))
    return watch.history, {name: value.item() for name, value in fit.logged_metrics.items()}


@pytest.mark.parametrize("case", CASES)
def test_static_training_is_bitwise_the_same(case):
    callback = DynamicGradientAlignment(every_n_steps=2, rule="static")
    with_it, logged = run(case, callback)
    without, logged_without = run(case)
    assert callback.alignments.step == 6
    assert len(with_it) == len(without)
    for step, (a, b) in enumerate(zip(with_it, without, strict=True)):
        for key in a:
            torch.testing.assert_close(
                a[key], b[key], rtol=0, atol=0, msg=lambda m, k=key, s=step: f"{k} after batch {s}: {m}"
            )
    assert logged == logged_without


def test_a_moved_mixture_would_show():
    """Checks that the comparison above can fail."""
    with_it, _ = run("fp32", DynamicGradientAlignment(every_n_steps=2, step_size=5.0))
    without, _ = run("fp32")
    assert any((a["samples"] != b["samples"]).any() for a, b in zip(with_it, without, strict=True))


def test_what_a_plain_module_logs_is_unchanged(tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    def logged(name, *callbacks):
        seed_everything(0, verbose=False)
        logger = CSVLogger(tmp_path / name, version="")
        trainer(*callbacks, max_steps=6, logger=logger, log_every_n_steps=1).fit(Plain(), datamodule=mixture())
        logger.save()
        rows = (tmp_path / name / "lightning_logs" / "metrics.csv").read_text().splitlines()
        columns = rows[0].split(",")
        keep = [i for i, column in enumerate(columns) if not column.startswith("dga/")]
        return [
            [row.split(",")[i] for i in keep]
            for row in rows
            if any(row.split(",")[i] for i in keep if columns[i][:5] == "train")
        ]

    assert sorted(logged("with", DynamicGradientAlignment(every_n_steps=2, rule="static"))[0]) == sorted(
        logged("without")[0]
    )
    assert logged("with2", DynamicGradientAlignment(every_n_steps=2, rule="static")) == logged("without2")


def test_a_step_that_writes_to_its_logger_directly_is_not_heard():
    from lightning.pytorch.loggers.logger import DummyExperiment, DummyLogger

    class Recording(DummyLogger):
        def __init__(self):
            super().__init__()
            self.calls = []

        def log_metrics(self, metrics, step=None):
            self.calls.append(metrics)

        @property
        def experiment(self):
            return DummyExperiment()

    class Chatty(Plain):
        def training_step(self, batch, batch_idx):
            self.logger.log_metrics({"mine": 1.0})
            self.logger.experiment.add_scalar("x", 1)
            return super().training_step(batch, batch_idx)

    logger = Recording()
    trainer(DynamicGradientAlignment(every_n_steps=2, rule="static"), logger=logger).fit(Chatty(), datamodule=mixture())
    assert sum("mine" in metrics for metrics in logger.calls) == 6
    # the initial mixture, and that of each update
    assert sum("dga/weight/domain0" in metrics for metrics in logger.calls) == 1 + 3
