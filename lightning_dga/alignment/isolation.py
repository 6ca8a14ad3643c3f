"""Leaves a model as it was found, whatever a probe's forward pass does to it.

A user's own step may log, count, update metrics and running statistics, and draw random numbers. Inside
:func:`isolated` all of that happens to be undone.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_dga.alignment.compiled import eagerly
from lightning_dga.distributed import reshard

_LOGGING = ("log", "log_dict")
_MODULE_INTERNALS = frozenset(vars(nn.Module()))


@contextmanager
def isolated(module: nn.Module) -> Iterator[None]:
    """Runs probes in evaluation mode, then restores modes, buffers, attributes, logging and random numbers.

    Evaluation mode takes dropout's noise out of the gradients, and keeps the samples of a batch apart in normalisation
    layers that would mix them. Recurrent layers stay in training mode, without their dropout, because cuDNN has no
    backward pass for them in evaluation mode.

    Attributes are set back, tensors, lists, dicts and sets among them by content; this covers the state of a
    torchmetrics ``Metric`` and what a ``training_step`` collects. Objects of other types are not looked into.

    What is compiled by ``torch.compile`` runs eagerly, and nothing is compiled. What FSDP2 shards is in shards.

    Args:
        module: The model, with all that hangs below it.
    """
    # a forward pass without a backward, as of validation or of a probe, leaves whole parameters in the module
    reshard(module)
    with ExitStack() as stack:
        stack.callback(reshard, module)
        stack.enter_context(_random_number_generators())
        stack.enter_context(_buffers(module))
        stack.enter_context(_attributes(module))
        stack.enter_context(_evaluation_mode(module))
        stack.enter_context(_muted(module))
        stack.enter_context(eagerly())
        yield


@contextmanager
def _evaluation_mode(module: nn.Module) -> Iterator[None]:
    modes = [(child, child.training) for child in module.modules()]
    dropouts = [(child, child.dropout) for child in module.modules() if isinstance(child, nn.RNNBase)]
    try:
        for child, _ in modes:
            child.training = isinstance(child, nn.RNNBase)
        for child, _ in dropouts:
            child.dropout = 0.0
        yield
    finally:
        for child, mode in modes:
            child.training = mode
        for child, dropout in dropouts:
            child.dropout = dropout


@contextmanager
def _buffers(module: nn.Module) -> Iterator[None]:
    saved = [
        (child, name, buffer, None if buffer is None else buffer.detach().clone())
        for child in module.modules()
        for name, buffer in child._buffers.items()
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for child, name, buffer, content in saved:
                if content is not None and buffer is not None:
                    buffer.copy_(content)
                child._buffers[name] = buffer


@contextmanager
def _attributes(module: nn.Module) -> Iterator[None]:
    seen: set[int] = set()
    saved = [
        (
            vars(child),
            {name: _remember(value, seen) for name, value in vars(child).items() if name not in _MODULE_INTERNALS},
        )
        for child in module.modules()
    ]
    try:
        yield
    finally:
        for attributes, remembered in saved:
            for name in [name for name in attributes if name not in remembered and name not in _MODULE_INTERNALS]:
                del attributes[name]
            for name, restore in remembered.items():
                attributes[name] = restore()


def _remember(value: Any, seen: set[int]) -> Callable[[], Any]:
    """A function that gives the value back, with the content that it has now."""
    if id(value) in seen or not isinstance(value, (Tensor, list, dict, set)):
        return lambda: value
    seen.add(id(value))
    if isinstance(value, Tensor):
        return partial(_refill_tensor, value, value.detach().clone())
    if isinstance(value, set):
        return partial(_refill_set, value, value.copy())
    if isinstance(value, list):
        return partial(_refill_list, value, [_remember(member, seen) for member in value])
    return partial(_refill_dict, value, {key: _remember(member, seen) for key, member in value.items()})


def _refill_tensor(tensor: Tensor, content: Tensor) -> Tensor:
    with torch.no_grad():
        return tensor.copy_(content)


def _refill_set(members: set[Any], content: set[Any]) -> set[Any]:
    members.clear()
    members.update(content)
    return members


def _refill_list(members: list[Any], restores: list[Callable[[], Any]]) -> list[Any]:
    members[:] = [restore() for restore in restores]
    return members


def _refill_dict(members: dict[Any, Any], restores: dict[Any, Callable[[], Any]]) -> dict[Any, Any]:
    content = {key: restore() for key, restore in restores.items()}
    members.clear()
    members.update(content)
    return members


@contextmanager
def _muted(module: nn.Module) -> Iterator[None]:
    for name in _LOGGING:
        if hasattr(module, name):
            vars(module)[name] = _log_nothing
    try:
        yield
    finally:
        for name in _LOGGING:
            vars(module).pop(name, None)


def _log_nothing(*_: Any, **__: Any) -> None:
    return None


@contextmanager
def _random_number_generators() -> Iterator[None]:
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
        if mps is not None:
            torch.mps.set_rng_state(mps)
