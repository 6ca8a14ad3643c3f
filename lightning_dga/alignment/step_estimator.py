"""The protocol of an estimator that measures during a training step."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_dga.alignment.estimator import Measurement
from lightning_dga.alignment.probing.probes import Probes
from lightning_dga.core.alignments import Alignments


@runtime_checkable
class StepEstimator(Protocol):
    """Measures alignments during a training step; called around each of its forward and backward passes."""

    def begin(
        self,
        measurement: Measurement,
        stale: Sequence[int],
        *,
        pure: bool,
        targets: Mapping[str, Probes] | None = None,
    ) -> None:
        """Opens a measurement, at the parameters that the step will start from.

        Args:
            measurement: The input; its probes are read for the target, and for ``stale`` domains.
            stale: Domains to measure on probes too, such as those that were in no watched step for too long; the same
                on every rank.
            pure: Whether each batch of the step is of a single domain.
            targets: The probes of each target by name, if there are several; each is read for its target samples only,
                and the measurement's own target samples are not. Each target takes the memory of one gradient.

        Raises:
            EstimatorRefusal: If the estimator is not exact for the model or its strategy.
        """
        ...

    def watch(self, domains: NDArray[np.int64], factor: float) -> None:
        """Watches the next forward and backward pass of training.

        Args:
            domains: Domain of each sample of the batch, ``[n]``.
            factor: Factor by which the batch's mean loss is multiplied before its backward pass.
        """
        ...

    def unwatch(self, loss: Tensor | None) -> None:
        """Stops watching, if a pass is being watched.

        Args:
            loss: The loss that was backpropagated, including ``factor``; ``None`` if there was no backward pass, as for
                a batch that the step skipped, whose samples then do not count.
        """
        ...

    def finish(self, step: int) -> Alignments | None:
        """Closes the measurement; the same result on every rank, ``None`` if a target gradient is not finite.

        A domain of which the step held no sample, and that was not probed, has a count of 0.

        Args:
            step: Optimizer steps done when the measurement began.

        Raises:
            EstimatorRefusal: If the step was found not to give exact alignments; raised on every rank.
        """
        ...

    def abandon(self) -> None:
        """Removes every hook and patch that an open measurement has placed on the model."""
        ...
