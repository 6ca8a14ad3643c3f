"""The derivative of a layer's output along a direction in the space of its parameters.

The layers known here are linear in their parameters. The derivative is then the layer's own forward with the direction
in the place of the parameters: there is no second formula that could disagree with the layer.
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
    """What gives the derivative of a layer's output ``[...]`` for its input and a direction ``{name: tensor}``.

    A direction has tensors of the parameters' shapes; a parameter that it leaves out does not move. The result is
    exact, but for :func:`affine`, which is what a layer of an unknown kind may be: see :func:`is_affine`.

    Returns:
        The function; ``None`` where a sample's gradient does not follow from the layer's input and output alone.
    """
    kind, names = type(module), set(module._parameters)
    if "forward" in vars(module) or next(module.children(), None) is not None:
        return None
    if kind is nn.Embedding:
        # both make a row depend on what else is in the batch
        return _embedding if module.max_norm is None and not module.scale_grad_by_freq else None
    if kind in _BATCH_NORM:
        return None if module.training or module.running_mean is None else along
    if (kind in _LINEAR and names <= {"weight", "bias"}) or is_transformers_conv1d(kind):
        return along
    return affine


def along(module: nn.Module, x: Tensor, direction: Direction) -> Tensor:
    """The layer's forward with the direction as its parameters; exact where the layer is linear in them."""
    own = _own(module)
    zeros = {name: torch.zeros_like(parameter) for name, parameter in own.items() if name not in direction}
    with parameters_as(module, zeros | {name: part.to(own[name].dtype) for name, part in direction.items()}):
        return type(module).forward(module, x)


def affine(module: nn.Module, x: Tensor, direction: Direction) -> Tensor:
    """The same for a layer that has a term without parameters, as ``x * (1 + weight)`` does."""
    largest = torch.stack([part.abs().amax() for part in direction.values()]).amax()
    size = torch.where(largest > 0, largest, torch.ones_like(largest))
    # a direction as large as that term, so that digits remain when it is taken off
    return _change(module, x, {name: part / size for name, part in direction.items()}) * size


def is_affine(module: nn.Module, x: Tensor) -> bool:
    """Whether :func:`affine` is right for a layer, as far as an input shows.

    A random direction, its opposite and its double have to agree, and autograd has to find the same where the
    parameters stand: a gate ``tanh(weight)`` fails the first, a gradient that is scaled or cut the second.
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
    except Exception:  # whatever an unknown layer does not bear, it is left to autograd then
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
    """Lets a module find other tensors in the place of its own parameters."""
    own, kept = module._parameters, dict(module._parameters)
    own.update(tensors)  # type: ignore[arg-type]
    try:
        yield
    finally:
        own.update(kept)


def _embedding(module: nn.Module, x: Tensor, direction: Direction) -> Tensor:
    rows, padding = along(module, x, direction), module.padding_idx
    # autograd gives the padding's row no gradient, but a tied output layer's use of it has one
    return rows if padding is None else rows.masked_fill(x.eq(padding).unsqueeze(-1), 0)  # type: ignore[arg-type]


def _change(module: nn.Module, x: Tensor, direction: Direction) -> Tensor:
    """How the output differs between the direction and zero as the parameters, in float32 at least."""
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
    """Whether a class is GPT-2's linear layer of Hugging Face's ``transformers``, whose weight is ``[in, out]``."""
    loaded = sys.modules.get("transformers.pytorch_utils")
    return loaded is not None and kind is getattr(loaded, "Conv1D", None)
