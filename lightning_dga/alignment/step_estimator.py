"""What an estimator takes and gives that measures in a training step."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_dga.alignment.estimator import Measurement
from lightning_dga.core.alignments import Alignments


@runtime_checkable
class StepEstimator(Protocol):
    """Measures alignments while a training step runs; called around each of its backward passes."""

    def begin(self, measurement: Measurement, stale: Sequence[int], *, pure: bool) -> None:
        """Opens a measurement, at the parameters that the step will start from.

        Args:
            measurement: What is to be measured; its probes are read for the target, and for ``stale`` domains.
            stale: Domains that have waited too long to be in a step, the same on every process.
            pure: Whether each batch of the step is of one domain.

        Raises:
            EstimatorRefusal: If the model or its strategy is one that this estimator is not exact for.
        """
        ...

    def watch(self, domains: NDArray[np.int64], factor: float) -> None:
        """Watches the next forward and backward pass of training.

        Args:
            domains: Domain of each sample of the batch, ``[n]``.
            factor: What the batch's mean loss is multiplied with before its backward pass.
        """
        ...

    def unwatch(self, loss: Tensor | None) -> None:
        """Ends the watch, if there is one.

        Args:
            loss: The loss that was backpropagated, times ``factor``; ``None`` where none was, as of a batch that the
                step skipped, whose samples then do not count.
        """
        ...

    def finish(self, step: int) -> Alignments | None:
        """Closes the measurement: the same result on every process; ``None`` where the target gradient is not finite.

        Args:
            step: Optimizer steps done when the measurement began.

        Raises:
            EstimatorRefusal: If what was seen in the step is not exact, on every process alike.
        """
        ...

    def abandon(self) -> None:
        """Takes back all that an open measurement has put on the model."""
        ...
