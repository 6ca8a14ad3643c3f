"""The protocol of a data module that the callback can reweight."""

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
