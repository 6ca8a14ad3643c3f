"""Measurements can be monitored, and are logged at the steps of the training metrics."""

import csv
import math

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger

from lightning_dga import DynamicGradientAlignment
from tests.helpers.toys import Plain, Points, TwoOptimizers, mixture, trainer

SHOWN = {"dga/target_loss", "dga/target_norm", "dga/effective_domains", "dga/staleness", "dga/weights_version"}
SHOWN |= {f"dga/{what}/domain{i}" for what in ("weight", "alignment") for i in range(3)}


class Rows(Logger):
    """Keeps what is logged, by step."""

    name, version = "rows", 0

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, *arguments, **keywords):
        pass

    def steps_of(self, name):
        return [step for step, metrics in self.rows if name in metrics]


class Noted(Callback):
    """Records a metric wherever a callback may read it."""

    def __init__(self, name="dga/target_loss"):
        self.name, self.seen = name, {}

    def note(self, hook, trainer):
        self.seen.setdefault(hook, []).append(trainer.callback_metrics[self.name].item())

    def on_train_epoch_end(self, trainer, pl_module):
        self.note("epoch", trainer)

    def on_train_end(self, trainer, pl_module):
        self.note("end", trainer)


def backward(period, **arguments):
    return DynamicGradientAlignment(period, estimator="backward", probe_batch_size=2, **arguments)


@pytest.mark.parametrize("logger", [True, False], ids=["logger", "no logger"])
@pytest.mark.parametrize("rule", ["dga", "static"])
def test_callbacks_find_all_metrics(tmp_path, logger, rule):
    callback, noted = backward(2, rule=rule), Noted("dga/target_norm")
    fit = trainer(noted, callback, max_epochs=2, max_steps=-1, logger=CSVLogger(tmp_path) if logger else False)
    fit.fit(Plain(), datamodule=mixture(batches_per_epoch=4))
    assert set(fit.callback_metrics) >= SHOWN
    assert noted.seen["epoch"][-1] == pytest.approx(callback.alignments.target_norm, rel=1e-6)
    assert fit.callback_metrics["dga/target_loss"].item() == pytest.approx(callback.alignments.target_loss, rel=1e-6)
    assert "dga/target_loss" not in fit.logged_metrics


@pytest.mark.parametrize("period", [100, None], ids=["a period longer than the run", "never"])
def test_a_monitor_has_a_fresh_target_loss_at_every_check(period):
    stop, noted = EarlyStopping("dga/target_loss", patience=9, check_on_train_epoch_end=True), Noted()
    fit = trainer(stop, backward(period), noted, max_epochs=4, max_steps=-1)
    fit.fit(Plain(lr=0.01), datamodule=mixture(batches_per_epoch=3))
    assert len(set(noted.seen["epoch"])) == 4, "a value that stays would stop a run that still learns"
    assert noted.seen["end"] == noted.seen["epoch"][-1:]


def test_the_target_loss_of_a_check_is_that_of_the_target_samples():
    model, data, noted = Plain(), mixture(batches_per_epoch=3), Noted()
    fit = trainer(EarlyStopping("dga/target_loss"), backward(100), noted, max_epochs=1, max_steps=-1)
    fit.fit(model, datamodule=data)
    model.eval()
    whole = [(model.loss(probe.batch).item(), len(probe.domains)) for probe in data.probes(0, 2).target()]
    expected = sum(loss * count for loss, count in whole) / sum(count for _, count in whole)
    assert noted.seen["epoch"] == [pytest.approx(expected, rel=1e-5)]


def test_validation_checks_and_checkpoints_can_monitor_it(tmp_path):
    checkpoint = ModelCheckpoint(tmp_path, monitor="dga/target_loss", every_n_train_steps=2, save_top_k=-1)
    stop = EarlyStopping("dga/target_loss", check_on_train_epoch_end=False, stopping_threshold=math.inf)

    class Validated(Plain):
        def validation_step(self, batch, batch_idx):
            self.log("val/loss", self.loss(batch))

    fit = trainer(
        stop, checkpoint, backward(50), max_steps=40, val_check_interval=5, num_sanity_val_steps=2,
        enable_checkpointing=True,
    )  # fmt: skip
    fit.fit(Validated(), datamodule=mixture(batches_per_epoch=10, val=Points(1, 8)))
    assert fit.global_step == 5, "the first check is to stop it"
    assert len(checkpoint.best_k_models) == 2


def test_a_schedule_can_monitor_it():
    class OnPlateau(Plain):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), 0.1)
            schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
            return [optimizer], [{"scheduler": schedule, "monitor": "dga/target_loss", "interval": "epoch"}]

    trainer(backward(100), max_epochs=2, max_steps=-1).fit(OnPlateau(), datamodule=mixture(batches_per_epoch=2))


def test_nothing_is_measured_for_nobody():
    class Counted(Plain):
        probed = 0

        def loss(self, batch):
            self.__class__.probed += not self.training
            return super().loss(batch)

    trainer(backward(None), max_epochs=2, max_steps=-1).fit(Counted(), datamodule=mixture(batches_per_epoch=2))
    assert Counted.probed == 0


def test_what_the_module_logs_is_as_without_the_callback():
    class Talkative(Plain):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            self.log("a", float(batch_idx), on_step=True, on_epoch=True)
            self.log("dga/mine", 1.0)

    def logged(*callbacks):
        torch.manual_seed(0)
        rows = Rows()
        fit = trainer(*callbacks, logger=rows, log_every_n_steps=1, max_epochs=2, max_steps=-1)
        fit.fit(Talkative(), datamodule=mixture(batches_per_epoch=3))
        ours = {name for name in fit.callback_metrics if name in SHOWN or name.startswith("dga/si")} | {"dga/seconds"}
        rest = {name: value.item() for name, value in fit.callback_metrics.items() if name not in ours}
        return [row for row in rows.rows if not ours & row[1].keys()], rest, fit.logged_metrics.keys()

    assert logged(backward(1, rule="static"), EarlyStopping("dga/target_loss", patience=9)) == logged()


@pytest.mark.parametrize("period", [1, 3])
def test_a_step_of_two_optimizers_is_one_step(period):
    rows = Rows()
    fit = trainer(backward(period), logger=rows, log_every_n_steps=1, max_steps=24)
    fit.fit(TwoOptimizers(), datamodule=mixture())
    assert rows.steps_of("train/step") == list(range(12))
    assert rows.steps_of("dga/target_loss") == list(range(period - 1, 12, period))


def test_batches_that_only_accumulate_by_hand_are_no_steps():
    class Accumulates(TwoOptimizers):
        def training_step(self, batch, batch_idx):
            if batch_idx % 3 == 2:
                super().training_step(batch, batch_idx)

    rows = Rows()
    fit = trainer(backward(2), logger=rows, log_every_n_steps=1, max_steps=8)
    fit.fit(Accumulates(), datamodule=mixture())
    assert rows.steps_of("dga/target_loss") == [5, 11]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_logged_step_is_that_of_the_same_batch(accumulate):
    rows = Rows()
    fit = trainer(backward(2), logger=rows, log_every_n_steps=1, max_steps=6, accumulate_grad_batches=accumulate)
    fit.fit(Plain(), datamodule=mixture(batches_per_epoch=30))
    assert rows.steps_of("dga/target_loss") == [1, 3, 5]
    assert set(rows.steps_of("dga/target_loss")) <= set(rows.steps_of("train/loss"))


@pytest.mark.parametrize("rule", [{"rule": "importance", "prior": [3, 1, 0]}, {"rule": "dga"}])
def test_the_mixture_that_a_run_starts_with_is_logged(tmp_path, rule):
    logger = CSVLogger(tmp_path, version="")
    callback = backward(None, **rule)
    data = mixture(weights=[0.5, 0.3, 0.2])
    trainer(callback, max_steps=1, logger=logger).fit(Plain(), datamodule=data)
    with next(tmp_path.rglob("metrics.csv")).open() as file:
        first = next(csv.DictReader(file))
    assert first["step"] == "0"
    expected = [0.75, 0.25, 0.0] if rule["rule"] == "importance" else [0.5, 0.3, 0.2]
    assert [float(first[f"dga/weight/domain{i}"]) for i in range(3)] == pytest.approx(expected)


def test_domains_that_are_not_shown_any_more_cannot_be_monitored(monkeypatch):
    monkeypatch.setattr("lightning_dga.engine.metrics._SHOWN_DOMAINS", 1)

    class Turn(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            trainer.datamodule.set_weights([1, 0, 0] if trainer.global_step < 3 else [0, 0, 1])

    fit = trainer(Turn(), backward(1, rule="static"))
    fit.fit(Plain(), datamodule=mixture())
    assert [name for name in fit.callback_metrics if "/weight/" in name] == ["dga/weight/domain2"]
