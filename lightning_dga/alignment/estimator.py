"""The protocol of an alignment estimator, and its input."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from lightning_dga.alignment.probing.loss import ProbeLoss
from lightning_dga.alignment.probing.probes import Probes
from lightning_dga.core.alignments import Alignments

Preconditioner = Callable[[nn.Parameter], Tensor | None]


@dataclass(frozen=True)
class Measurement:
    """The input of a measurement, at the parameters' present values.

    Attributes:
        module: The model, in the mode that probes run in.
        loss: The loss of a probe batch.
        parameters: The trainable parameters that alignments are taken over, each once, in the same order on every rank.
        probes: The samples.
        num_domains: The number k of domains.
        step: Optimizer steps done.
        excluded: The other trainable parameters.
        training_loss: The loss that training backpropagates, for estimators that watch training steps; :attr:`loss` if
            not given.
        preconditioner: Returns the diagonal D that a parameter's gradient is multiplied by, or ``None`` for ones. The
            alignment is then ``<grad L_i, D grad L_target>``.
    """

    module: nn.Module
    loss: ProbeLoss
    parameters: Sequence[nn.Parameter]
    probes: Probes
    num_domains: int
    step: int
    excluded: Sequence[nn.Parameter] = ()
    training_loss: ProbeLoss | None = None
    preconditioner: Preconditioner | None = None


class Estimator(Protocol):
    """Measures the alignments of k domains with the target set on probe batches."""

    def measure(self, measurement: Measurement) -> Alignments | None:
        """Measures all alignments; every rank must call it, and every rank gets the same result.

        Returns:
            The alignments, or ``None`` if the target gradient is not finite.

        Raises:
            EstimatorRefusal: If the estimator is not exact for the model, its precision or its strategy.
        """
        ...


class EstimatorRefusal(Exception):
    """An estimator cannot be exact for this model; the message says why, and what to do about it."""
