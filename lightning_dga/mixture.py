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

    def probes(self, update: int, size: int) -> Probes:
        """The samples for an update, ``size`` of each domain."""
        ...

    @property
    def batch_size(self) -> int:
        """Samples of a training batch of one process."""
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
