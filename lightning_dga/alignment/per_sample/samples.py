"""Passes in which each layer's contribution to the inner products is separated by sample.

Inside :func:`per_sample_forwards` the layers' use of their parameters is hidden from autograd. Their outputs go through
:class:`SampleContraction` instead, which adds each sample's contribution to the gradient of one small leaf. Any
gradient that autograd still finds for a parameter is from a use outside of these layers, so no use is lost.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_dga.alignment.per_sample.layers import Direction, Tangent, parameters_as


class SampleDimension(Enum):
    """The position of the batch's samples in a layer's input."""

    SAMPLES = auto()
    """The leading dimension has one row per sample."""
    BROADCAST = auto()
    """The leading dimension is 1, as for positions ``[1, T]``."""
    ABSENT = auto()
    """The input has no sample dimension and is shared by all samples, as for positions ``[T]``."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A module whose parameter gradients can be separated by sample.

    Attributes:
        module: The module.
        tangent: The derivative of its output; see :func:`~lightning_dga.alignment.per_sample.layers.tangent_of`.
        parameters: Its measured parameters: name in the module to index among all measured parameters.
        rows: The position of the samples in its input.
    """

    module: nn.Module
    tangent: Tangent
    parameters: Mapping[str, int]
    rows: SampleDimension = SampleDimension.SAMPLES

    def fits(self, shape: torch.Size, size: int) -> bool:
        """Whether an input's shape matches :attr:`rows` for a batch of ``size`` samples."""
        if self.rows is SampleDimension.ABSENT:
            return True
        return len(shape) > 0 and shape[0] == (size if self.rows is SampleDimension.SAMPLES else 1)

    def by_sample(self, y: Tensor, size: int) -> Tensor:
        """The output expanded to one row per sample, so that each has a gradient of its own."""
        if self.rows is SampleDimension.SAMPLES:
            return y
        return y.expand(size, *y.shape[1 if self.rows is SampleDimension.BROADCAST else 0 :])


class MisfitError(Exception):
    """A layer was called in another way than when the plan was made.

    Attributes:
        layer: The layer.
    """

    def __init__(self, layer: Layer) -> None:
        super().__init__(f"a {type(layer.module).__name__} was called in another way than before")
        self.layer = layer


Attach = Callable[[Layer, Tensor, Tensor], Tensor]
Contract = Callable[[Tensor, Tensor], Tensor]


@contextmanager
def per_sample_forwards(layers: Iterable[Layer], size: int, attach: Attach) -> Iterator[None]:
    """Hides the layers' use of their parameters from autograd; must stay open during the backward pass.

    Args:
        layers: The layers.
        size: Number of samples in the batch.
        attach: Called as ``attach(layer, input, output)``; returns the output that the model receives.

    Raises:
        MisfitError: From the model's forward, if a layer is not called with a single tensor of the expected rows.
    """

    def call(layer: Layer, *args: Any, **kwargs: Any) -> Tensor:
        x = lone_input(args, kwargs)
        if x is None or not layer.fits(x.shape, size):
            raise MisfitError(layer)
        own: dict[str, Any] = layer.module._parameters
        with parameters_as(layer.module, {name: own[name].detach() for name in layer.parameters}):
            y = type(layer.module).forward(layer.module, x)
        if layer.rows is SampleDimension.SAMPLES and y.shape[:1] != x.shape[:1]:
            raise MisfitError(layer)
        return attach(layer, x, y)

    with patched_forwards({layer.module: partial(call, layer) for layer in layers}):
        yield


@contextmanager
def patched_forwards(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Replaces the ``forward`` of each module within the block; the modules' hooks still run around it."""
    try:
        patch_forwards(forwards)
        yield
    finally:
        restore_forwards(forwards)


def patch_forwards(forwards: Mapping[nn.Module, Callable[..., Any]]) -> None:
    """Replaces the ``forward`` of each module until :func:`restore_forwards` is called."""
    for module, forward in forwards.items():
        vars(module)["forward"] = forward


def restore_forwards(modules: Iterable[nn.Module]) -> None:
    """Restores the original forwards."""
    for module in modules:
        vars(module).pop("forward", None)


def lone_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The input of a call that takes one tensor and nothing else."""
    return args[0] if len(args) == 1 and not kwargs and isinstance(args[0], Tensor) else None


class SampleContraction(torch.autograd.Function):
    """The identity ``y -> y``; the backward pass adds ``contract(x, dy)`` to the gradient of a leaf ``[size]``.

    The input is saved by ``save_for_backward``, so that activation checkpointing and saved-tensor hooks apply to it,
    and a later in-place change of it is an error. Nothing is computed before the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, leaf: Tensor, contract: Contract) -> Tensor:  # noqa: D102
        ctx.save_for_backward(x)
        ctx.contract = contract
        ctx.leaf = leaf.detach()
        ctx.precision = _precision(y.device.type)
        # a detached tensor and not a view, so that the model can modify it in place, as in `out += x`
        return y.detach()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, Tensor, None]:  # noqa: D102
        (x,) = ctx.saved_tensors
        with ctx.precision:
            return dy, None, ctx.contract(x, dy).to(ctx.leaf), None


def attached(layer: Layer, x: Tensor, y: Tensor, leaf: Tensor, contract: Contract) -> Tensor:
    """A layer's output with one row per sample, passed through :class:`SampleContraction`."""
    result: Tensor = SampleContraction.apply(layer.by_sample(y, len(leaf)), x.detach(), leaf, contract)
    return result


def contraction(layer: Layer, x: Tensor, dy: Tensor, direction: Direction) -> Tensor:
    """``<dy_j, derivative of the layer's output for sample j along the direction>``, ``[size]``, at least float32."""
    scale = None
    if dy.dtype == torch.float16:
        # gradients can underflow in float16, and their products with those of a scaled loss can overflow
        largest = torch.stack([part.abs().amax() for part in direction.values()]).amax()
        scale = largest.clamp(min=torch.finfo(largest.dtype).tiny) * _HEADROOM
        direction, dy = {name: part / scale for name, part in direction.items()}, dy.float()
    tangent = layer.tangent(layer.module, x, direction)
    same = tangent.shape == dy.shape and tangent.dtype == dy.dtype
    product = tangent.mul_(dy) if same else tangent * dy
    sums = product.reshape(len(product), -1).sum(1, dtype=torch.promote_types(product.dtype, torch.float32))
    return sums if scale is None else sums * scale


# the direction is scaled to at most 1 / _HEADROOM, which leaves room for sums of many products with activations
_HEADROOM = 16.0


def _precision(device_type: str) -> AbstractContextManager[Any]:
    """A context with the present autocast state, for a backward pass that runs outside of it."""
    enabled = torch.is_autocast_enabled(device_type)
    dtype = torch.get_autocast_dtype(device_type)
    return torch.autocast(device_type, dtype=dtype, enabled=enabled, cache_enabled=False)
