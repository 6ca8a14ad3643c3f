"""The derivative of a layer's output along a direction in the space of its parameters.

The layers supported here are linear in their parameters. The derivative is then the layer's own forward with the
direction in place of the parameters, so there is no separate formula that could disagree with the layer.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Direction = Mapping[str, Tensor]
Tangent = Callable[[nn.Module, Tensor, Direction], Tensor]

_LINEAR = frozenset(
    {
        nn.Linear,
        nn.Conv1d,
        nn.Conv2d,
        nn.Conv3d,
        nn.ConvTranspose1d,
        nn.ConvTranspose2d,
        nn.ConvTranspose3d,
        nn.LayerNorm,
        nn.RMSNorm,
        nn.GroupNorm,
    }
)
_BATCH_NORM = frozenset({nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d})


def tangent_of(module: nn.Module) -> Tangent | None:
    """A function that returns the derivative of a layer's output for its input and a direction ``{name: tensor}``.

    A direction has tensors of the parameters' shapes; a parameter that is not in it does not move. The result is exact
    for known layer types. For a layer of unknown type it is :func:`affine`, to be checked by :func:`is_affine`.

    Returns:
        The function; ``None`` if a sample's gradient is not determined by the layer's input and output gradient.
    """
    kind, names = type(module), set(module._parameters)
    if "forward" in vars(module) or next(module.children(), None) is not None:
        return None
    if kind is nn.Embedding:
        # both options make a row depend on the rest of the batch
        return _embedding if module.max_norm is None and not module.scale_grad_by_freq else None
    if kind in _BATCH_NORM:
        return None if module.training or module.running_mean is None else along
    if (kind in _LINEAR and names <= {"weight", "bias"}) or is_transformers_conv1d(kind):
        return along
    return affine


def along(module: nn.Module, x: Tensor, direction: Direction) -> Tensor:
    """The layer's forward with the direction as its parameters; exact if the layer is linear in them."""
    own = _own(module)
    zeros = {name: torch.zeros_like(parameter) for name, parameter in own.items() if name not in direction}
    with parameters_as(module, zeros | {name: part.to(own[name].dtype) for name, part in direction.items()}):
        return type(module).forward(module, x)


def affine(module: nn.Module, x: Tensor, direction: Direction) -> Tensor:
    """As :func:`along`, for a layer with an additional term without parameters, such as ``x * (1 + weight)``."""
    largest = torch.stack([part.abs().amax() for part in direction.values()]).amax()
    size = torch.where(largest > 0, largest, torch.ones_like(largest))
    # the direction is scaled to the size of that term, so that its subtraction loses little precision
    return _change(module, x, {name: part / size for name, part in direction.items()}) * size


def is_affine(module: nn.Module, x: Tensor) -> bool:
    """Whether :func:`affine` is right for a layer, tested on one input.

    The results for a random direction, its negative and its double must be consistent, and autograd must give the same
    at the present parameters: a gate ``tanh(weight)`` fails the first test, a gradient that is scaled or clipped the
    second.
    """
    own = {name: parameter.detach().requires_grad_() for name, parameter in _own(module).items()}
    generator, x = torch.Generator().manual_seed(0), x.detach()
    direction = {name: torch.randn(p.shape, generator=generator).to(p.device) for name, p in own.items()}
    try:
        with torch.no_grad():
            tangent, opposite, double = (
                _change(module, x, {name: factor * part for name, part in direction.items()}).float()
                for factor in (1, -1, 2)
            )
        with torch.enable_grad(), parameters_as(module, own):
            y = type(module).forward(module, x)
        gradients = torch.autograd.grad(y, list(own.values()), tangent.to(y.dtype), allow_unused=True)
    except Exception:  # an unknown layer may raise anything; it is then left to autograd
        return False
    found = [(g.float() * part).sum() for g, part in zip(gradients, direction.values(), strict=True) if g is not None]
    square, digits = tangent.square().sum(), 1e-3 if y.dtype.itemsize >= 4 else 3e-2
    return bool(
        square > 0
        and torch.maximum((opposite + tangent).norm(), (double - 2 * tangent).norm()) <= digits * square.sqrt()
        and abs(sum(found) - square) <= digits * square
    )


@contextmanager
def parameters_as(module: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Replaces some of a module's parameters by other tensors within the block."""
    own, kept = module._parameters, dict(module._parameters)
    own.update(tensors)  # type: ignore[arg-type]
    try:
        yield
    finally:
        own.update(kept)


def _embedding(module: nn.Module, x: Tensor, direction: Direction) -> Tensor:
    rows, padding = along(module, x, direction), module.padding_idx
    # autograd gives the padding row no gradient, but its use in a tied output layer has one
    return rows if padding is None else rows.masked_fill(x.eq(padding).unsqueeze(-1), 0)  # type: ignore[arg-type]


def _change(module: nn.Module, x: Tensor, direction: Direction) -> Tensor:
    """The difference of the outputs with the direction and with zeros as parameters, in at least float32."""
    zeros = {name: torch.zeros_like(own, dtype=_wide(own)) for name, own in _own(module).items()}
    x = x.to(_wide(x)) if x.is_floating_point() else x
    with parameters_as(module, zeros):
        without = type(module).forward(module, x)
    with parameters_as(module, zeros | {name: part.to(zeros[name].dtype) for name, part in direction.items()}):
        return type(module).forward(module, x) - without


def _own(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in module._parameters.items() if parameter is not None}


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def is_transformers_conv1d(kind: type[nn.Module]) -> bool:
    """Whether a class is ``Conv1D`` of Hugging Face's ``transformers``, a linear layer with weight ``[in, out]``."""
    loaded = sys.modules.get("transformers.pytorch_utils")
    return loaded is not None and kind is getattr(loaded, "Conv1D", None)
