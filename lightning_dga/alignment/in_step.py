"""Alignments from the gradients of the training step itself, with no probes of the domains."""

from collections.abc import Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_dga.alignment.backward import add_domains
from lightning_dga.alignment.estimator import EstimatorRefusal, Measurement
from lightning_dga.alignment.gradient import FlatGradient, total
from lightning_dga.alignment.sums import DomainSums
from lightning_dga.alignment.target import TargetGradient, target_gradient
from lightning_dga.alignments import Alignments


@runtime_checkable
class StepEstimator(Protocol):
    """Measures alignments while a training step runs; called around each of its backward passes."""

    def begin(self, measurement: Measurement, stale: Sequence[int]) -> None:
        """Opens a measurement, at the parameters that the step will start from.

        Args:
            measurement: What is to be measured; its probes are read for the target, and for ``stale`` domains.
            stale: Domains that have waited too long to be in a step, the same on every process.
        """
        ...

    def watch(self, domains: NDArray[np.int64], factor: float) -> None:
        """Watches the next forward and backward pass of training.

        Args:
            domains: Domain of each sample of the batch, ``[n]``.
            factor: What the batch's mean loss is multiplied with before its backward pass.
        """
        ...

    def unwatch(self, loss: Tensor) -> None:
        """Ends the watch.

        Args:
            loss: The loss that was backpropagated, times ``factor``.
        """
        ...

    def finish(self, step: int) -> Alignments | None:
        """Closes the measurement: the same result on every process; ``None`` where the target gradient is not finite.

        Args:
            step: Optimizer steps done when the measurement began.
        """
        ...

    def abandon(self) -> None:
        """Takes back all that an open measurement has put on the model."""
        ...


class InStep:
    """Alignments at the price of the target gradient: the domains' gradients are those that training takes anyway.

    The target gradient is taken just before an optimizer step, at the parameters that the step starts from; while the
    step's own backward passes run, each sample's (or, where a batch is of one domain, the batch's) inner product with
    it is taken. Nothing of the step changes. The alignment is that of the training loss in training mode, with its
    dropout, on as many samples of a domain as the step happens to hold.
    """

    def __init__(self) -> None:
        self._open: tuple[Measurement, TargetGradient, DomainSums] | None = None
        self._watch: _PureWatch | None = None

    def begin(self, measurement: Measurement, stale: Sequence[int]) -> None:
        """See :class:`StepEstimator`."""
        self.abandon()
        target = target_gradient(measurement)
        if target is None:
            return
        if target.gradient.sharded:
            raise EstimatorRefusal(
                "in_step: the parameters are sharded, so a process never sees the gradient of its own samples. Use "
                "`estimator='batched'` or `'backward'`."
            )
        sums = DomainSums(target, measurement.num_domains)
        if stale:
            add_domains(sums, target, measurement, stale)
        self._open = (measurement, target, sums)

    def watch(self, domains: NDArray[np.int64], factor: float) -> None:
        """See :class:`StepEstimator`."""
        if self._open is None:
            return
        _, target, _ = self._open
        self._watch = _PureWatch(target.gradient, domains, factor)

    def unwatch(self, loss: Tensor) -> None:
        """See :class:`StepEstimator`."""
        if self._watch is None or self._open is None:
            return
        self._watch.remove()
        self._watch.add_to(self._open[2], loss)
        self._watch = None

    def finish(self, step: int) -> Alignments | None:
        """See :class:`StepEstimator`."""
        opened = self._open
        self.abandon()
        return opened[2].alignments(step) if opened is not None else None

    def abandon(self) -> None:
        """See :class:`StepEstimator`."""
        if self._watch is not None:
            self._watch.remove()
        self._open = self._watch = None


class _PureWatch:
    """The gradient of a batch of one domain, parameter by parameter as the backward pass finishes it."""

    def __init__(self, gradient: FlatGradient, domains: NDArray[np.int64], factor: float) -> None:
        self._gradient = gradient
        self._domains = domains
        self._factor = factor
        self._terms: list[Tensor] = []
        self._hooks = [
            parameter.register_hook(partial(self._take, index)) for index, parameter in enumerate(gradient.parameters)
        ]

    def add_to(self, sums: DomainSums, loss: Tensor) -> None:
        dot = total(self._terms, like=self._gradient.buffers[0]) / self._factor
        count = dot.new_tensor(len(self._domains))
        sums.add(torch.from_numpy(self._domains[:1]), dot[None], loss[None] / self._factor, count[None])

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _take(self, index: int, gradient: Tensor) -> None:
        dense = gradient.detach()
        self._terms.append(self._gradient.term(index, dense if dense.layout == torch.strided else dense.to_dense()))
