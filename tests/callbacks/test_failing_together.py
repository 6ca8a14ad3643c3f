"""An error on one rank, or weights that differ there, end the run on all ranks at once; the message names the rank."""

import time

import pytest
import torch
from lightning.pytorch import Callback

from lightning_dga import DynamicGradientAlignment
from tests.helpers.processes import together
from tests.helpers.toys import BySample, mixture, trainer

RANKS = 3
# of the callback; a process that waits for another does so for as long
TIMEOUT = 600


def fit(callback, *others, module=BySample, **arguments):
    """The result of a run on this rank: its error, and the time that it took."""
    torch.manual_seed(0)
    data, started = mixture(batch_size=4), time.monotonic()
    ours = trainer(callback, *others, strategy="ddp", devices=RANKS, **arguments)
    try:
        ours.fit(module(), datamodule=data)
    except Exception as error:
        return f"{type(error).__name__}: {error}", time.monotonic() - started
    return {"weights": data.weights, "estimator": callback._loop.measurer.chosen}, time.monotonic() - started


def fails_in_a_measurement(estimator, step, counted):
    """Rank 1 fails in one of the probes of an update."""

    class Model(BySample):
        probes = 0

        def alignment_loss(self, batch):
            if self.trainer.global_step == step and self.trainer.global_rank == 1:
                Model.probes += 1
                if Model.probes == counted:
                    raise RuntimeError("no kernel for this")
            return super().alignment_loss(batch)

    callback = DynamicGradientAlignment(2, estimator=estimator, probe_batch_size=3, timeout=TIMEOUT)
    return fit(callback, module=Model)


@pytest.mark.parametrize("counted", [1, 2], ids=["of the target", "of a domain"])
@pytest.mark.parametrize("estimator", ["backward", "batched"])
def test_an_error_on_one_process_ends_the_run_on_all_of_them(estimator, counted):
    for process, (error, seconds) in enumerate(together(fails_in_a_measurement, RANKS, estimator, 4, counted)):
        if process == 1:
            assert error.startswith("RuntimeError: no kernel for this")
        else:
            said = "ProcessFailure: Rank 1 failed while aligning after step 4: RuntimeError"
            assert error.startswith(said) and "no kernel for this" in error
        assert seconds < TIMEOUT / 2


def fails_in_the_trial():
    """Rank 1 runs out of memory in the trial of an estimator, where errors do not end the run."""
    from lightning_dga.alignment import Auto, Backward, Batched

    class Broken(Batched):
        def measure(self, measurement):
            if measurement.module.trainer.global_rank == 1:
                raise torch.OutOfMemoryError("no memory is left")
            return super().measure(measurement)

    class Refuses(Backward):
        def measure(self, measurement):
            if measurement.module.trainer.global_rank == 2:
                from lightning_dga.alignment import EstimatorRefusal

                raise EstimatorRefusal("not this one")
            return super().measure(measurement)

    auto = Auto({"broken": Broken, "refuses": Refuses})
    # more probes than a training step has samples, so that probes are chosen
    callback = DynamicGradientAlignment(2, estimator=auto, probe_batch_size=9, timeout=TIMEOUT)
    return *fit(callback), auto.reasons


def test_an_estimator_that_fails_on_one_process_is_out_on_all():
    found = together(fails_in_the_trial, RANKS)
    for result, _, reasons in found:
        assert result["estimator"] == "backward"
        assert "no memory is left" in reasons["broken"] and reasons["refuses"] == "not this one"
        torch.testing.assert_close(result["weights"], found[0][0]["weights"], rtol=0, atol=0)


def refuses_on_one_process():
    """Rank 1 finds in the middle of the run that its chosen estimator is not exact."""
    from lightning_dga.alignment import Auto, Batched, EstimatorRefusal

    class Once(Batched):
        def measure(self, measurement):
            if measurement.step == 4 and measurement.module.trainer.global_rank == 1:
                raise EstimatorRefusal("not exact any more")
            return super().measure(measurement)

    auto = Auto()
    auto.choose = lambda *arguments, **keywords: auto._chosen[1]
    auto._chosen = "batched", Once()
    callback = DynamicGradientAlignment(2, estimator=auto, probe_batch_size=3, timeout=TIMEOUT)
    return *fit(callback), auto.name


def test_all_processes_take_the_reference_where_one_has_to():
    found = together(refuses_on_one_process, RANKS)
    for result, _, name in found:
        assert name == "backward"
        torch.testing.assert_close(result["weights"], found[0][0]["weights"], rtol=0, atol=0)


class Astray(Callback):
    """Sets weights on one process, in the middle of a long period without an update."""

    def __init__(self, hook, step, everywhere=False):
        self.step, self.everywhere = step, everywhere
        setattr(self, hook, self.set)

    def set(self, trainer, pl_module, *_):
        if trainer.global_step == self.step and (self.everywhere or trainer.global_rank == 1):
            trainer.datamodule.set_weights([0.2, 0.3, 0.5])


def sets_weights(hook, everywhere, period):
    callback = DynamicGradientAlignment(period, rule="static", estimator="backward", timeout=TIMEOUT)
    steps = Steps()
    result, _ = fit(callback, Astray(hook, 3, everywhere), steps, max_steps=40)
    return result, steps.done


class Steps(Callback):
    done = 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.done = trainer.global_step


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_train_batch_end"])
@pytest.mark.parametrize("period", [100, None], ids=["between updates", "without updates"])
def test_weights_that_one_process_sets_are_found_in_the_next_steps(hook, period):
    for error, done in together(sets_weights, RANKS, hook, False, period):
        assert error.startswith("RuntimeError: Ranks [1] hold other weights than the rest")
        assert "Call `set_weights` with the same weights at the same step on every rank" in error
        assert done <= 5


def test_weights_that_all_processes_set_are_theirs_to_set():
    for result, done in together(sets_weights, RANKS, "on_train_batch_end", True, 100):
        assert result["weights"].tolist() == [0.2, 0.3, 0.5] and done == 40
