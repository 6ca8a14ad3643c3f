"""What every alignment estimator takes and gives."""

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
    """What is to be measured, at the parameters' present values.

    Attributes:
        module: The model, in the mode that its probes run in.
        loss: The loss of a probe batch.
        parameters: The trainable parameters that alignments are taken over, each once, in the same order on every
            process.
        probes: The samples.
        num_domains: k.
        step: Optimizer steps done.
        bystanders: The other trainable parameters.
        training_loss: What training takes the gradient of, for estimators that watch it; :attr:`loss` if not given.
        preconditioner: Gives the diagonal that a parameter's gradients are multiplied with, ``None`` for ones. The
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
        """Measures all alignments; every process calls it, and each returns the same.

        Returns:
            The alignments, or ``None`` where the target gradient is not finite.

        Raises:
            EstimatorRefusal: If the model, its precision or its strategy is one that this estimator is not exact for.
        """
        ...


class EstimatorRefusal(Exception):
    """An estimator cannot be exact for this model; says why, and what can be done."""
