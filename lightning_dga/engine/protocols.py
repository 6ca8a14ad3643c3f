"""What the callback asks of a data module."""

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_dga.alignment import Probes


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
        """How often the weights have been set."""
        ...

    def set_weights(self, weights: Tensor) -> None:
        """Changes the weights."""
        ...

    @property
    def staleness(self) -> int:
        """Batches that were trained on under older weights since the newest were set."""
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
        """Training samples drawn from each domain so far, over all processes, ``[k]``."""
        ...

    def probes(self, update: int, size: int, *, target: int = 0, mixtures: Tensor | None = None) -> Probes:
        """The samples for an update, ``size`` of each domain, or of each of some mixtures (``[N, k]``) of them."""
        ...

    @property
    def batch_size(self) -> int:
        """Samples of a training batch of one process."""
        ...

    @property
    def batches_per_epoch(self) -> int:
        """Training batches of one process in an epoch."""
        ...

    @property
    def pure_batches(self) -> bool:
        """Whether each process's training batch is of one domain."""
        ...

    @property
    def current_batch(self) -> "TrainingBatch | None":
        """Where the samples of the batch in training came from."""
        ...


class TrainingBatch(Protocol):
    """What is known of a training batch."""

    @property
    def domains(self) -> NDArray[np.int64]:
        """Domain of each sample of this process's batch, ``[batch_size]``."""
        ...
