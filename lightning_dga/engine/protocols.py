"""What the engine asks of the training that it serves, and of the mixture that it reweights."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_dga.alignment import LossFunction, Probes
from lightning_dga.engine.run_length import RunLength


class Training(Protocol):
    """A training loop; :class:`~lightning_dga.callbacks.lightning_training.LightningTraining` is a Trainer's."""

    @property
    def module(self) -> nn.Module:
        """The model."""
        ...

    @property
    def alignment_loss(self) -> LossFunction:
        """The loss that is aligned, as a function of the model and a batch."""
        ...

    @property
    def training_loss(self) -> LossFunction:
        """The loss that the loop backpropagates, as a function of the model and a batch."""
        ...

    @property
    def optimizers(self) -> Sequence[Any]:
        """The optimizers."""
        ...

    @property
    def device(self) -> torch.device:
        """The device of the model, and of collectives."""
        ...

    @property
    def steps(self) -> int:
        """Training steps done: batches that ended in an optimizer step, the unit of the reweighting period."""
        ...

    @property
    def optimizer_steps(self) -> int:
        """Steps done by all optimizers together, which label measurements."""
        ...

    @property
    def accumulated_batches(self) -> int:
        """Batches per rank in an optimizer step."""
        ...

    @property
    def loss_scale(self) -> float:
        """Factor by which a gradient scaler multiplies the loss before the backward pass; 1 without a scaler."""
        ...

    @property
    def has_one_backward(self) -> bool:
        """Whether each batch has one backward pass, of the whole training loss, for one optimizer."""
        ...

    def forward_context(self) -> AbstractContextManager[Any]:
        """The context of a forward pass under the loop's precision."""
        ...

    def transfer(self, batch: Any) -> Any:
        """Transfers a batch as the loop does before a training step."""
        ...

    def undisturbed(self) -> AbstractContextManager[Any]:
        """A context in which a probe's loss does not reach the loop, such as its loggers."""
        ...

    def reachable(self) -> Sequence[Any]:
        """Objects beside the model that a loss may change, such as optimizers and learning rate schedulers."""
        ...

    def run_length(self, every_n_steps: int | None) -> RunLength:
        """The length of the run, with a reweighting period in training steps."""
        ...

    def inform(self, message: str) -> None:
        """Shows a message, once for all ranks."""
        ...

    def warn(self, message: str) -> None:
        """Shows a warning, once for all ranks."""
        ...


@runtime_checkable
class Mixture(Protocol):
    """A data module whose weights can be set; :class:`~lightning_dga.MixtureDataModule` is one."""

    @property
    def domain_names(self) -> tuple[str, ...]:
        """The k domain names."""
        ...

    @property
    def weights(self) -> Tensor:
        """The newest weights, ``[k]`` float64."""
        ...

    @property
    def weights_version(self) -> int:
        """Number of times that the weights have been set."""
        ...

    def set_weights(self, weights: Tensor) -> None:
        """Changes the weights."""
        ...

    @property
    def staleness(self) -> int:
        """Batches trained on under older weights since the newest weights were set."""
        ...

    @property
    def target_names(self) -> tuple[str, ...]:
        """Names of the targets."""
        ...

    @property
    def domain_sizes(self) -> Tensor:
        """Samples in each domain, ``[k]``; 0 where that is not known."""
        ...

    @property
    def samples_seen(self) -> Tensor:
        """Training samples drawn from each domain so far, over all ranks, ``[k]``."""
        ...

    def probes(self, update: int, size: int, *, target: int = 0, mixtures: Tensor | None = None) -> Probes:
        """The probe samples for an update: ``size`` of each domain, or of each mixture in ``mixtures`` (``[N, k]``)."""
        ...

    @property
    def batch_size(self) -> int:
        """Training batch size per rank."""
        ...

    @property
    def batches_per_epoch(self) -> int:
        """Training batches per rank in an epoch."""
        ...

    @property
    def pure_batches(self) -> bool:
        """Whether each rank's training batch is drawn from a single domain."""
        ...

    @property
    def current_batch(self) -> "TrainingBatch | None":
        """The origin of the samples in the batch that is being trained on."""
        ...


class TrainingBatch(Protocol):
    """The origin of a training batch's samples."""

    @property
    def domains(self) -> NDArray[np.int64]:
        """Domain of each sample of this rank's batch, ``[batch_size]``."""
        ...
