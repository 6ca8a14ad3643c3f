"""One gradient of a model, flat in memory, and inner products with it that never hold a second one."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn


class FlatGradient:
    """A gradient of all trainable parameters: one flat buffer per device, summed over processes by one collective.

    Half-precision parameters get a float32 gradient: what is summed and multiplied over a whole model needs the range
    and the digits.

    Args:
        parameters: The trainable parameters, each once, in an order that is the same on every process.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self.buffers, self._views = _allocate(self._parameters)

    def add_(self, loss: Tensor, factor: float) -> None:
        """Adds ``factor`` times the gradient of a loss; ``.grad`` is not touched."""

        def add(index: int, gradient: Tensor) -> None:
            view = self._views[index]
            view.add_(gradient.reshape(-1).to(view.dtype), alpha=factor)

        visit_gradients(loss, self._parameters, add)

    def dot(self, loss: Tensor) -> Tensor:
        """The inner product with the gradient of a loss, a float64 scalar (float32 where there is no float64)."""
        dots: list[Tensor] = []

        def dot(index: int, gradient: Tensor) -> None:
            view = self._views[index]
            dots.append(torch.dot(gradient.reshape(-1).to(view.dtype), view))

        visit_gradients(loss, self._parameters, dot)
        return _total(dots, like=self.buffers[0])

    def squared_norm(self) -> Tensor:
        """The squared Euclidean norm, a scalar as of :meth:`dot`."""
        return _total((torch.dot(view, view) for view in self._views), like=self.buffers[0])


def visit_gradients(loss: Tensor, parameters: Sequence[nn.Parameter], visit: Callable[[int, Tensor], None]) -> None:
    """Hands each parameter's gradient to ``visit(index, gradient)`` as the backward pass finishes it, then drops it.

    A plain ``autograd.grad`` would hold the gradients of all parameters until its end, one more copy of the model. A
    parameter that the loss does not depend on is not visited.
    """

    def visit_and_drop(index: int, gradient: Tensor) -> Tensor:
        if gradient.layout != torch.strided:
            visit(index, gradient.detach().to_dense())
            return gradient
        visit(index, gradient.detach())
        return torch.empty((), dtype=gradient.dtype, device=gradient.device).expand(gradient.shape)

    hooks = [parameter.register_hook(partial(visit_and_drop, index)) for index, parameter in enumerate(parameters)]
    try:
        torch.autograd.grad(loss, parameters, allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()


def _allocate(parameters: Sequence[nn.Parameter]) -> tuple[list[Tensor], list[Tensor]]:
    kinds = [(p.device, torch.promote_types(p.dtype, torch.float32)) for p in parameters]
    buffers: dict[tuple[torch.device, torch.dtype], Tensor] = {}
    for kind in dict.fromkeys(kinds):
        size = sum(p.numel() for p, own in zip(parameters, kinds, strict=True) if own == kind)
        buffers[kind] = torch.zeros(size, dtype=kind[1], device=kind[0])
    taken = dict.fromkeys(buffers, 0)
    views = []
    for parameter, kind in zip(parameters, kinds, strict=True):
        views.append(buffers[kind].narrow(0, taken[kind], parameter.numel()))
        taken[kind] += parameter.numel()
    return list(buffers.values()), views


def _total(dots: Iterable[Tensor], like: Tensor) -> Tensor:
    dtype = torch.float32 if like.device.type == "mps" else torch.float64
    gathered = [dot.to(like.device) for dot in dots]
    return torch.stack(gathered).to(dtype).sum() if gathered else torch.zeros((), dtype=dtype, device=like.device)
