"""Training and evaluation mode of a model's modules during a measurement."""

import re
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from inspect import signature
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.checkpoint import CheckpointFunction, checkpoint

_CHECKPOINTS = re.compile(
    r"checkpoint(ing|ed|s)?(_sequential|_fn|_func|_wrapper|_blocks|_layers)?$|remat|(^|_)ckpt$|^with_cp$"
)
# methods of every LightningModule whose names mention checkpoints in the sense of files
_FILES = re.compile(r"(^|_)(save|load|from)_")
_LIBRARIES = frozenset({"torch", "lightning", "lightning_fabric", "pytorch_lightning", "torchmetrics", "builtins"})
_NOISE = re.compile(r"drop|stochasticdepth|noise", re.IGNORECASE)


@contextmanager
def evaluation(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, except for modules that need training mode for a backward pass, or for one within memory.

    Evaluation mode removes dropout noise from the gradients, and prevents normalisation layers from mixing the samples
    of a batch. Recurrent layers, for which cuDNN has no backward pass in evaluation mode, and modules that checkpoint
    their activations in training mode only stay in training mode, with dropout disabled.
    """
    with _modes(module, [child for child in module.modules() if _needs_training(child)]):
        yield


@contextmanager
def training(module: nn.Module) -> Iterator[None]:
    """Training mode without noise or mixing of samples: torch's own layers, and dropouts, stay in evaluation mode.

    Code of a user's module that runs only in training mode does run.
    """
    with _modes(module, [child for child in module.modules() if isinstance(child, nn.RNNBase) or not _is_noisy(child)]):
        yield


@contextmanager
def checkpoints_without_reentrance() -> Iterator[None]:
    """Replaces activation checkpointing with ``use_reentrant=True`` by the non-reentrant variant.

    Only the latter supports gradients of chosen tensors. The reentrant variant accumulates into ``.grad`` of all
    parameters, which triggers the hooks of ``DistributedDataParallel``; these count the gradients of each parameter and
    would count those of probes too.
    """

    def apply(function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
        return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=preserve_rng_state)

    with patch.object(CheckpointFunction, "apply", apply):
        yield


@contextmanager
def _modes(module: nn.Module, training: Iterable[nn.Module]) -> Iterator[None]:
    before = [(child, child.training) for child in module.modules()]
    trained = list(training)
    dropouts = [(child, _dropouts(child)) for child in trained]
    with ExitStack() as stack:
        try:
            for child, _ in before:
                child.training = False
            for child, own in dropouts:
                child.training = True
                vars(child).update(dict.fromkeys(own, 0.0))
            if any(not isinstance(child, nn.RNNBase) for child in trained):
                stack.enter_context(_functions_without_noise())
            yield
        finally:
            for child, own in dropouts:
                vars(child).update(own)
            for child, mode in before:
                child.training = mode


def _dropouts(module: nn.Module) -> dict[str, float]:
    """Attributes that hold a drop probability, including those of layer drop and drop path."""
    return {name: value for name, value in vars(module).items() if type(value) is float and "drop" in name.lower()}


def _is_noisy(module: nn.Module) -> bool:
    known = isinstance(module, (_DropoutNd, _NormBase))
    return known or _is_torchs_own(type(module)) or bool(_NOISE.search(type(module).__name__))


def _is_torchs_own(kind: type) -> bool:
    # checks base classes too, because FSDP2 derives a class of its own from the user's
    return all(base.__module__.split(".")[0] in ("torch", "builtins", "typing", "abc") for base in kind.__mro__)


def _needs_training(module: nn.Module) -> bool:
    if isinstance(module, nn.RNNBase):
        return True
    if _is_torchs_own(type(module)):
        return False
    flags = [value for name, value in {**_class_flags(type(module)), **vars(module)}.items() if _is_flag(name, value)]
    return any(flags) if flags else _checkpoints_in_training(type(module))


def _is_flag(name: str, value: Any) -> bool:
    # a number, such as the number of layers to checkpoint, counts as a flag too
    return isinstance(value, (bool, int)) and _is_of_checkpoints(name)


@cache
def _is_of_checkpoints(name: str) -> bool:
    return bool(_CHECKPOINTS.search(name)) and not _FILES.search(name)


def _class_flags(kind: type) -> dict[str, Any]:
    return {name: getattr(kind, name, None) for name in _flag_names(kind)}


@cache
def _flag_names(kind: type) -> list[str]:
    return [name for name in dir(kind) if _is_of_checkpoints(name)]


def _checkpoints_in_training(kind: type) -> bool:
    """Whether the code of a class refers to both checkpointing and training mode."""
    names = {name for base in kind.__mro__ for name in _names_in(base)}
    return "training" in names and any(map(_is_of_checkpoints, names))


@cache
def _names_in(kind: type) -> Sequence[str]:
    if kind.__module__.split(".")[0] in _LIBRARIES:
        return ()
    found: list[str] = []
    waiting: list[Any] = [
        getattr(getattr(member, "__wrapped__", member), "__code__", None)
        for value in vars(kind).values()
        for member in (getattr(value, "__func__", value), getattr(value, "fget", None))
    ]
    while waiting:
        code = waiting.pop()
        if isinstance(code, types.CodeType):
            found += code.co_names
            waiting += code.co_consts
    return found


_DROPOUTS = {
    F: ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"),
    torch: ("dropout", "dropout_", "alpha_dropout", "feature_dropout", "feature_alpha_dropout"),
}
_WITH_A_MODE = ("batch_norm", "multi_head_attention_forward", "rrelu")


@contextmanager
def _functions_without_noise() -> Iterator[None]:
    """Disables functional dropout, which modules that are kept in training mode may call.

    A ``TorchFunctionMode`` would not suffice: it is not active while a backward pass recomputes activations.
    """
    with ExitStack() as stack:
        for owner, names in _DROPOUTS.items():
            for name in names:
                stack.enter_context(patch.object(owner, name, _nothing_dropped))
        for name in _WITH_A_MODE:
            stack.enter_context(patch.object(F, name, partial(_in_evaluation_mode, getattr(F, name))))
        attention = F.scaled_dot_product_attention
        stack.enter_context(patch.object(F, "scaled_dot_product_attention", partial(_attention, attention)))
        yield


def _nothing_dropped(input: Tensor, *_: Any, **__: Any) -> Tensor:
    return input


def _in_evaluation_mode(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    given = signature(function).bind(*args, **kwargs)
    # without running statistics there is no evaluation mode
    if given.arguments.get("running_mean", function) is not None:
        given.arguments["training"] = False
    return function(*given.args, **given.kwargs)


def _attention(
    function: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
    dropout_p: float = 0.0, *args: Any, **kwargs: Any,
) -> Tensor:  # fmt: skip
    return function(query, key, value, attn_mask, 0.0, *args, **kwargs)
