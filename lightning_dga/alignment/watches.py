"""Watching one forward and backward pass of training: inner products with the target gradient, and nothing changed."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_dga.alignment.gradient import FlatGradient, total
from lightning_dga.alignment.samples import (
    Layer,
    MisfitError,
    Rows,
    attached,
    contraction,
    lone_input,
    replace_calls,
    restore_calls,
)
from lightning_dga.alignment.sums import DomainSums


class Watch(Protocol):
    """A watch over one pass, from its beginning on."""

    def remove(self) -> None:
        """Takes everything off the model."""
        ...

    def add_to(self, sums: DomainSums, loss: Tensor) -> None:
        """Adds what was seen.

        Args:
            sums: The sums of the measurement.
            loss: The loss that was backpropagated.
        """
        ...


class PureWatch:
    """A batch of one domain: its gradient, parameter by parameter as the backward pass finishes it.

    It works for any model, and before anything is accumulated, reduced or clipped.

    Args:
        gradient: The target gradient.
        domains: The batch's one domain, for each sample, ``[n]``.
        factor: What the mean loss is multiplied with before the backward pass.
    """

    def __init__(self, gradient: FlatGradient, domains: NDArray[np.int64], factor: float) -> None:
        self._gradient = gradient
        self._domains = domains
        self._factor = factor
        self._terms: list[Tensor] = []
        self._hooks = [
            parameter.register_hook(partial(self._take, index)) for index, parameter in enumerate(gradient.parameters)
        ]

    def add_to(self, sums: DomainSums, loss: Tensor) -> None:
        """See :class:`Watch`."""
        dot = total(self._terms, like=self._gradient.buffers[0]) / self._factor
        count = dot.new_tensor(len(self._domains))
        sums.add(torch.from_numpy(self._domains[:1]), dot[None], loss[None] / self._factor, count[None])

    def remove(self) -> None:
        """See :class:`Watch`."""
        for hook in self._hooks:
            hook.remove()

    def _take(self, index: int, gradient: Tensor) -> None:
        dense = gradient.detach()
        self._terms.append(self._gradient.term(index, dense if dense.layout == torch.strided else dense.to_dense()))


class MixedWatch:
    """A batch of many domains: the share of each of its samples, layer by layer.

    The loss has to be the mean over the samples of a loss that each has alone. What the domains' losses are, it does
    not see.

    Args:
        gradient: The target gradient.
        layers: The layers, which account for all parameters.
        domains: Domain of each sample, ``[n]``.
        rows: Which samples to measure.
        factor: What the mean loss is multiplied with before the backward pass.
    """

    def __init__(
        self,
        gradient: FlatGradient,
        layers: Sequence[Layer],
        domains: NDArray[np.int64],
        rows: NDArray[np.int64],
        factor: float,
    ) -> None:
        self._gradient = gradient
        self._domains = domains
        self._rows = rows
        self._factor = factor
        device = gradient.buffers[0].device
        self._index = torch.from_numpy(rows).to(device)
        self._leaf = torch.zeros(len(domains), device=device, requires_grad=True)
        self._modules = [layer.module for layer in layers]
        replace_calls({layer.module: partial(self._call, layer) for layer in layers})

    def add_to(self, sums: DomainSums, loss: Tensor) -> None:
        """See :class:`Watch`."""
        if self._leaf.grad is None:
            return
        dots = self._leaf.grad[self._index] * (len(self._domains) / self._factor)
        sums.add(torch.from_numpy(self._domains[self._rows]), dots, None, torch.ones_like(dots))

    def remove(self) -> None:
        """See :class:`Watch`."""
        restore_calls(self._modules)

    def _call(self, layer: Layer, *args: Any, **kwargs: Any) -> Tensor:
        y: Tensor = type(layer.module).forward(layer.module, *args, **kwargs)
        x = lone_input(args, kwargs)
        if not torch.is_grad_enabled():
            return y
        if x is None or not layer.fits(x.shape, len(self._domains)):
            raise MisfitError(layer)
        return attached(layer, x, y, self._leaf, partial(self._contract, layer))

    def _contract(self, layer: Layer, x: Tensor, dy: Tensor) -> Tensor:
        parameters = self._gradient.parameters
        direction = {
            name: self._gradient.view(parameters[index]).view_as(parameters[index])
            for name, index in layer.parameters.items()
        }
        chosen = x[self._index] if layer.rows is Rows.SAMPLES else x
        seen = contraction(layer, chosen, dy[self._index], direction)
        return torch.zeros_like(self._leaf).index_add_(0, self._index, seen.to(self._leaf.dtype))
