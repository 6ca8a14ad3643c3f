"""A gradient of a model in flat buffers, and inner products with it that do not need a second full gradient."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from lightning_dga.alignment.estimator import EstimatorRefusal
from lightning_dga.alignment.probing.writes import undo_writes
from lightning_dga.distributed import all_reduce_, is_sharded, replicas, to_local, world_size

Visit = Callable[[int, Tensor], None]

_REENTRANT_CHECKPOINT = "CheckpointFunctionBackward"


class FlatGradient:
    """A gradient with respect to the trainable parameters, in one flat buffer per device and dtype.

    Half-precision parameters get a float32 gradient, because sums and products over a whole model need its range and
    precision. Of a sharded parameter it holds this rank's shard.

    Args:
        parameters: The trainable parameters, each once, in the same order on every rank.
        excluded: Trainable parameters that the loss depends on and that are left out.

    Attributes:
        parameters: The parameters.
        buffers: The flat buffers, one tensor per device and dtype.
        sharded: Whether any parameter is sharded.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], excluded: Sequence[nn.Parameter] = ()) -> None:
        self.parameters = list(parameters)
        self._excluded = list(excluded)
        self.sharded = is_sharded(self.parameters)
        self.buffers, self._views = _allocate(self.parameters)
        self._index = {id(parameter): index for index, parameter in enumerate(self.parameters)}

    def view(self, parameter: Tensor) -> Tensor:
        """The flat gradient of a parameter, or of this rank's shard of it, ``[numel]``.

        Raises:
            KeyError: If it is not one of the parameters.
        """
        return self._views[self._index[id(parameter)]]

    def __contains__(self, parameter: object) -> bool:
        """Whether it holds the gradient of a parameter."""
        return id(parameter) in self._index

    def add_(self, loss: Tensor, factor: float) -> None:
        """Adds ``factor`` times the gradient of a loss; ``.grad`` is not touched."""
        visited = set()

        def add(index: int, gradient: Tensor) -> None:
            view = self._views[index]
            view.add_(gradient.reshape(-1).to(view.dtype), alpha=factor)
            visited.add(index)

        visit_gradients(loss, self.parameters, add, self._excluded)
        if self.sharded and loss.requires_grad and not any(is_sharded([self.parameters[index]]) for index in visited):
            raise EstimatorRefusal(
                "No gradient reached the sharded parameters. FSDP2 does not reduce gradients while "
                "`set_requires_gradient_sync(False)` is in effect: call it with True before the optimizer steps."
            )

    def sum_over_ranks_(self) -> None:
        """Sums over ranks what each has added; every rank must call it.

        Of a sharded parameter the backward pass has already taken the mean over ranks.
        """
        if not self.sharded:
            for buffer in self.buffers:
                all_reduce_(buffer)
            return
        for parameter, view in zip(self.parameters, self._views, strict=True):
            if is_sharded([parameter]):
                view.mul_(world_size())
            else:
                all_reduce_(view)

    def dot(self, loss: Tensor) -> Tensor:
        """The inner product with the gradient of a loss, a float64 scalar (float32 on devices without float64).

        If parameters are sharded, it is this rank's term, and the sum over all ranks is the inner product.
        """
        dots: list[Tensor] = []

        def dot(index: int, gradient: Tensor) -> None:
            dots.append(self.term(index, gradient))

        visit_gradients(loss, self.parameters, dot, self._excluded)
        return total(dots, like=self.buffers[0])

    def term(self, index: int, gradient: Tensor) -> Tensor:
        """The contribution of parameter ``index`` to the inner product with a gradient, a scalar."""
        view = self._views[index]
        product = torch.dot(gradient.reshape(-1).to(view.dtype), view)
        # a shard that several ranks hold counts once in the sum
        return product * (1 / replicas(self.parameters[index])) if self.sharded else product

    def accumulator(self, *shape: int) -> Tensor:
        """Zeros to accumulate scalars in, on the gradient's device: float64 if the device supports it, else float32."""
        return torch.zeros(shape, dtype=_sum_dtype(self.buffers[0]), device=self.buffers[0].device)


def visit_gradients(loss: Tensor, parameters: Sequence[Tensor], visit: Visit, excluded: Sequence[Tensor] = ()) -> None:
    """Passes each parameter's gradient to ``visit(index, gradient)`` as the backward pass finishes it, then frees it.

    A plain ``autograd.grad`` would hold the gradients of all parameters until its end, one more copy of the model. A
    parameter that the loss does not depend on is not visited; for a loss without a graph, none is. ``.grad`` is left
    unchanged, also that of ``excluded``, on which the loss depends too. In-place writes by the loss are undone.
    """
    if not loss.requires_grad:
        return
    try:
        if is_sharded(parameters):
            _visit_sharded(loss, parameters, visit, excluded)
        elif _is_checkpointed_reentrantly(loss):
            _visit_accumulated(loss, parameters, visit, excluded)
        else:
            _visit_captured(loss, parameters, visit)
    finally:
        undo_writes()


def total(dots: Iterable[Tensor], like: Tensor) -> Tensor:
    """The sum of scalars, in float64 (float32 on devices without it), on the device of ``like``."""
    dtype = _sum_dtype(like)
    moved = [dot.to(like.device) for dot in dots]
    return torch.stack(moved).to(dtype).sum() if moved else torch.zeros((), dtype=dtype, device=like.device)


def _visit_captured(loss: Tensor, parameters: Sequence[Tensor], visit: Visit) -> None:
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


def _visit_accumulated(loss: Tensor, parameters: Sequence[Tensor], visit: Visit, excluded: Sequence[Tensor]) -> None:
    """Reads gradients from ``.grad``, the only way that works with reentrant checkpointing."""

    def visit_and_drop(index: int, parameter: Tensor) -> None:
        assert parameter.grad is not None
        gradient, parameter.grad = parameter.grad, None
        visit(index, gradient.to_dense() if gradient.layout != torch.strided else gradient)

    with gradients_set_aside([*parameters, *excluded]):
        hooks = [
            parameter.register_post_accumulate_grad_hook(partial(visit_and_drop, index))
            for index, parameter in enumerate(parameters)
        ]
        try:
            torch.autograd.backward(loss)
        finally:
            for hook in hooks:
                hook.remove()


def _visit_sharded(loss: Tensor, parameters: Sequence[Tensor], visit: Visit, excluded: Sequence[Tensor]) -> None:
    """Reads gradients from ``.grad`` after the backward pass, where FSDP2 leaves the mean over ranks."""
    with gradients_set_aside([*parameters, *excluded]):
        torch.autograd.backward(loss)
        for index, parameter in enumerate(parameters):
            if parameter.grad is not None:
                gradient, parameter.grad = to_local(parameter.grad), None
                visit(index, gradient)


@contextmanager
def gradients_set_aside(leaves: Sequence[Tensor]) -> Iterator[None]:
    """Sets aside ``.grad`` and its hooks, such as those of an optimizer that steps in the backward pass."""
    kept = [(leaf, leaf.grad, leaf._post_accumulate_grad_hooks) for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
        leaf._post_accumulate_grad_hooks = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for leaf, gradient, hooks in kept:
            leaf.grad = gradient
            leaf._post_accumulate_grad_hooks = hooks


def _is_checkpointed_reentrantly(loss: Tensor) -> bool:
    seen, waiting = set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if node.name() == _REENTRANT_CHECKPOINT:
            return True
        seen.add(node)
        waiting.extend(following for following, _ in node.next_functions)
    return False


def _allocate(parameters: Sequence[nn.Parameter]) -> tuple[list[Tensor], list[Tensor]]:
    parts = [to_local(parameter.detach()) for parameter in parameters]
    kinds = [(part.device, torch.promote_types(part.dtype, torch.float32)) for part in parts]
    buffers: dict[tuple[torch.device, torch.dtype], Tensor] = {}
    for kind in dict.fromkeys(kinds):
        size = sum(part.numel() for part, own in zip(parts, kinds, strict=True) if own == kind)
        buffers[kind] = torch.zeros(size, dtype=kind[1], device=kind[0])
    taken = dict.fromkeys(buffers, 0)
    views = []
    for part, kind in zip(parts, kinds, strict=True):
        views.append(buffers[kind].narrow(0, taken[kind], part.numel()))
        taken[kind] += part.numel()
    return list(buffers.values()), views


def _sum_dtype(like: Tensor) -> torch.dtype:
    return torch.float32 if like.device.type == "mps" else torch.float64
