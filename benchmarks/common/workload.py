"""What the alignment benchmark trains: GPTs of some sizes, on tokens made on the spot, in k domains."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_dga import DynamicGradientAlignment, MixtureDataModule
from lightning_dga.models import GPT


@dataclass(frozen=True)
class Size:
    """A model and the length of its sequences."""

    d_model: int
    num_layers: int
    vocab_size: int
    length: int

    def model(self) -> GPT:
        return GPT(self.vocab_size, self.length, self.d_model, self.num_layers, num_heads=self.d_model // 32)


SIZES = {
    "0.3M": Size(96, 2, 1024, 128),
    "0.3M, short": Size(96, 2, 1024, 16),
    "4M": Size(256, 4, 4096, 128),
    # much more model than activations, so that memory shows what is held beside the model
    "16M": Size(512, 5, 1024, 16),
    # for machines with a GPU
    "125M": Size(768, 12, 32768, 512),
}


class Tokens(Dataset):
    """Sequences of one domain each: a domain has favourites among the tokens, so that gradients differ."""

    def __init__(self, size: Size, domains: int, each: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._labels = torch.arange(domains).repeat_interleave(each)
        self._draws = torch.randint(size.vocab_size, (len(self._labels), size.length + 1), generator=generator)
        self._reach = torch.randint(8, size.vocab_size, (domains,), generator=torch.Generator().manual_seed(seed))

    @property
    def labels(self) -> Tensor:
        return self._labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Tensor:
        return self._draws[index] % self._reach[self._labels[index]]


@dataclass(frozen=True)
class Setting:
    """One run's settings.

    Attributes:
        model: A key of :data:`SIZES`.
        k: Domains.
        precision: As of the Trainer.
        batch: Sequences of a training step.
        probe: Sequences of each domain for an update.
        target: Target sequences for an update.
    """

    model: str
    k: int
    precision: str = "32-true"
    batch: int = 64
    probe: int = 4
    target: int = 8

    def datamodule(self) -> MixtureDataModule:
        size = SIZES[self.model]
        data = Tokens(size, self.k, max(2 * self.probe, 2 * self.batch // self.k), seed=1)
        target = Tokens(size, 1, 4 * self.target, seed=2)
        return MixtureDataModule.from_labels(
            data, data.labels, target, batch_size=self.batch, target_batch_size=self.target
        )

    def fit(self, steps: int, callbacks: list[Any]) -> None:
        """Trains for some steps."""
        L.seed_everything(0, verbose=False)
        trainer = L.Trainer(
            accelerator="auto",
            devices=1,
            precision=self.precision,
            max_steps=steps,
            max_epochs=-1,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(SIZES[self.model].model(), datamodule=self.datamodule())

    def callback(self, estimator: Any, due: Callable[[int], bool]) -> DynamicGradientAlignment:
        """A callback that measures at the steps that are due, and leaves the mixture as it is."""

        class AtSomeSteps(DynamicGradientAlignment):
            def should_update(self, step: int) -> bool:
                return due(step)

        return AtSomeSteps(every_n_steps=100, estimator=estimator, rule="static", probe_batch_size=self.probe)


class Clock(L.Callback):
    """What each training step takes with all that the other callbacks do about it; put it first.

    Attributes:
        seconds: From the start of one step to the start of the next: processor time of this process, or where there is
            a GPU, time by the clock.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last: float | None = None

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        now = clock()
        if self._last is not None:
            self.seconds.append(now - self._last)
        self._last = now


def clock() -> float:
    """Seconds of work, for differences."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()
