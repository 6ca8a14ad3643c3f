"""The number of training samples that a Trainer's run will draw, from its limits and callbacks."""

import math
from collections.abc import Iterator
from typing import Any

from lightning_dga._lightning import EarlyStopping, Timer
from lightning_dga.engine.protocols import Mixture
from lightning_dga.engine.run_length import RunLength

# the default that Lightning sets if the user gives no limit
_NO_LIMIT = 1000


def run_length(trainer: Any, mixture: Mixture, every_n_steps: int | None = None) -> RunLength:
    """The length of the run that a Trainer is in: the samples seen plus what is left until its limits.

    Args:
        trainer: The Trainer, during ``fit``.
        mixture: Its data module.
        every_n_steps: Reweighting period in training steps, to be converted into samples.
    """
    loop = trainer.fit_loop
    epochs = trainer.max_epochs
    if epochs is None or (epochs == _NO_LIMIT and trainer.max_steps < 0):
        epochs = -1
    rest = _Rest(trainer, mixture)
    limits = [rest.of_steps(trainer.max_steps)] if trainer.max_steps >= 0 else []
    limits += [rest.of_epochs(epochs)] if epochs >= 0 else []
    least = max(rest.of_steps(loop.min_steps or 0), rest.of_epochs(loop.min_epochs or 0))
    samples, seen = mixture.batch_size * trainer.world_size, float(mixture.samples_seen.sum())
    return RunLength(
        planned=seen + min(limits) * samples if limits else None,
        least=seen + least * samples,
        may_end_early=any(isinstance(one, (*EarlyStopping, *Timer)) for one in trainer.callbacks),
        # a period counts batches that ended in a step of at least one optimizer
        period=None if every_n_steps is None else max(rest.batches_per_step, 1.0) * every_n_steps * samples,
        seen=seen,
    )


class _Rest:
    """Batches per rank from now until a limit. Limits are totals: what was done before resuming counts."""

    def __init__(self, trainer: Any, mixture: Mixture) -> None:
        self._trainer = trainer
        progress, epoch = trainer.fit_loop.epoch_loop.batch_progress, trainer.fit_loop.epoch_progress.current
        self._batches = _batches_per_epoch(trainer, mixture)
        self._epoch = epoch.processed
        # Lightning keeps the last epoch's count until the next epoch begins
        self._in_epoch = progress.current.processed if epoch.ready > epoch.processed else 0
        # the batch being trained on counts as seen, although its step is not done
        self._held = progress.current.ready - progress.current.processed
        self._done = progress.total.processed

    @property
    def batches_per_step(self) -> float:
        """Batches per optimizer step."""
        trainer = self._trainer
        if trainer.lightning_module.automatic_optimization:
            return float(trainer.accumulate_grad_batches)
        # `global_step` counts every optimizer's steps; before the first batch, one step of each per batch is assumed
        if trainer.global_step and self._done:
            return float(self._done / trainer.global_step)
        return 1 / max(len(trainer.optimizers), 1)

    def of_epochs(self, epochs: int) -> int:
        """Batches until ``epochs`` epochs are done in total."""
        return max((epochs - self._epoch) * self._batches - self._in_epoch - self._held, 0)

    def of_steps(self, steps: int) -> int:
        """Batches until ``steps`` optimizer steps are done in total."""
        steps -= self._trainer.global_step
        return max(self._of_further_steps(steps) - self._held, 0) if steps > 0 and self._batches else 0

    def _of_further_steps(self, steps: int) -> int:
        if not self._trainer.lightning_module.automatic_optimization:
            return math.ceil(steps * self.batches_per_step)
        batches, epoch, begun = 0, self._epoch, self._in_epoch
        if begun:
            # the last batch of an epoch ends in a step, however few batches have been accumulated
            every = self._trainer.accumulate_grad_batches
            left = math.ceil((self._batches - begun // every * every) / every) if begun < self._batches else 0
            if steps <= left:
                return min((begun // every + steps) * every, self._batches) - begun
            batches, epoch, steps = self._batches - begun, epoch + 1, steps - left
        for every, epochs in _accumulation(self._trainer, epoch):
            per_epoch = math.ceil(self._batches / every)
            whole = min((steps - 1) // per_epoch, epochs)
            batches, steps = batches + int(whole) * self._batches, steps - int(whole) * per_epoch
            if whole < epochs:
                return batches + min(steps * every, self._batches)
        raise AssertionError("the last stretch of epochs has no end")


def _batches_per_epoch(trainer: Any, mixture: Mixture) -> int:
    limit, batches = trainer.limit_train_batches, mixture.batches_per_epoch
    return min(limit, batches) if isinstance(limit, int) else int(batches * limit)


def _accumulation(trainer: Any, epoch: int) -> Iterator[tuple[int, float]]:
    """Batches per step from an epoch on, each with the number of epochs it holds for; infinite for the last."""
    schedules = [one for one in trainer.callbacks if hasattr(one, "get_accumulate_grad_batches")]
    if not schedules:
        yield trainer.accumulate_grad_batches, math.inf
        return
    # the last callback to set it wins
    schedule = schedules[-1]
    for change in [*(known for known in schedule.epochs if known > epoch), math.inf]:
        yield schedule.get_accumulate_grad_batches(epoch), change - epoch
        epoch = change
