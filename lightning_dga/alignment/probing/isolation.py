"""Restores a model after probes, whose forward passes may change it.

A user's own step may log, count, move parameters, update metrics and running statistics, and draw random numbers.
:func:`isolated` undoes all of that when it ends.
"""

import random
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_dga.alignment.probing.compiled import eagerly
from lightning_dga.alignment.probing.modes import checkpoints_without_reentrance, evaluation
from lightning_dga.alignment.probing.snapshots import Snapshot, refill_tensor
from lightning_dga.alignment.probing.writes import Writes, undone
from lightning_dga.distributed import reshard

_LOGGING = ("log", "log_dict")


@contextmanager
def isolated(module: nn.Module, also: Iterable[Any] = ()) -> Iterator[Writes]:
    """Runs probes in evaluation mode, then restores parameters, modes, buffers, attributes, logging and random numbers.

    Recurrent layers, and modules that checkpoint their activations in training mode only, stay in training mode with
    dropout disabled; see :func:`~lightning_dga.alignment.probing.modes.evaluation`.

    Parameters that the loss changes in place are restored after each probe, so that all probes are measured at the same
    parameters. Attributes, and what can be reached from them, are restored at the end; see
    :class:`~lightning_dga.alignment.probing.snapshots.Snapshot`. Class attributes, globals and files are not restored.

    Code compiled by ``torch.compile`` runs eagerly, and nothing is compiled. FSDP2 parameters are resharded.

    Args:
        module: The model, with its submodules.
        also: Other objects that the loss can reach, such as optimizers and learning rate schedulers.

    Raises:
        StateChangedError: If something changed that cannot be restored.
    """
    # a forward pass without a backward pass, as in validation or a probe, leaves unsharded parameters in the module
    reshard(module)
    with ExitStack() as stack:
        snapshot = Snapshot(module.modules(), also)
        stack.callback(snapshot.restore)
        stack.enter_context(_parameters(module))
        writes = stack.enter_context(undone(_unique([*module.named_parameters(), *snapshot.tensors])))
        stack.callback(reshard, module)
        stack.enter_context(_random_number_generators())
        stack.enter_context(_buffers(module))
        stack.enter_context(evaluation(module))
        stack.enter_context(_muted(module))
        stack.enter_context(eagerly())
        stack.enter_context(checkpoints_without_reentrance())
        yield writes


def _unique(tensors: Iterable[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
    return list({id(tensor): (name, tensor) for name, tensor in tensors}.values())


@contextmanager
def _parameters(module: nn.Module) -> Iterator[None]:
    """Restores ``.grad``, which the loss may compute itself, and ``requires_grad``."""
    saved = [(parameter, parameter.grad, parameter.requires_grad) for parameter in module.parameters()]
    try:
        for parameter, _, _ in saved:
            parameter.grad = None
        yield
    finally:
        for parameter, gradient, requires_grad in saved:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient


@contextmanager
def _buffers(module: nn.Module) -> Iterator[None]:
    saved = [
        (child, name, buffer, None if buffer is None else buffer.detach().clone())
        for child in module.modules()
        for name, buffer in child._buffers.items()
    ]
    registered = {child: list(child._buffers) for child in module.modules()}
    try:
        yield
    finally:
        for child, names in registered.items():
            for name in [name for name in child._buffers if name not in names]:
                del child._buffers[name]
        for child, name, buffer, content in saved:
            if content is not None and buffer is not None:
                refill_tensor(buffer, content)
            child._buffers[name] = buffer


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
