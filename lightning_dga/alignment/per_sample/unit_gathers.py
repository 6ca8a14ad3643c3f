"""Gathers sharded target gradients during a backward pass, as FSDP2 gathers parameters."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_dga.alignment.per_sample.layer_products import LayerProducts
from lightning_dga.distributed import is_gathered_as_one

_Use = tuple[nn.Module, str, int]
"""A module, the name of a parameter in it, and the index of that parameter."""


class UnitGathers:
    """Gathers target gradients unit by unit when FSDP2's backward pass enters the unit, and frees them after use.

    A unit is a module that ``fully_shard`` was called on. FSDP2 itself requires that all ranks enter units in the same
    order, and the whole of a unit is gathered, so the collectives match also where ranks take different paths within
    it. One pass communicates P numbers for each target gradient, and holds those of the units that it is in.

    A part that is needed when it is not held, as for a layer that runs twice, is gathered for that one use.

    Args:
        module: The model.
        parameters: The parameters of the target gradients.
        products: The products with each target gradient, for which parts are gathered.
    """

    def __init__(self, module: nn.Module, parameters: Sequence[Tensor], products: Sequence[LayerProducts]) -> None:
        self._products = products
        # what will still need the part of a parameter
        self._users: dict[int, set[Hashable]] = defaultdict(set)
        self._hooked: dict[int, Tensor] = {}
        self._units = _units(module, parameters)
        self._handles: list[Any] = []
        for unit, uses in self._units.items():
            indices = sorted({index for _, _, index in uses})
            self._handles.append(unit.register_forward_hook(partial(self._after_forward, indices)))

    def take_gradients(self, take: Callable[[int, Tensor], None]) -> None:
        """Calls ``take(index, gradient)`` with each parameter's whole gradient on this rank, before it is reduced."""
        for unit, uses in self._units.items():
            self._handles.append(unit.register_forward_pre_hook(partial(self._before_forward, uses, take)))

    def expect(self, user: Hashable, indices: Sequence[int]) -> None:
        """Notes that the backward pass will need the parts of some parameters."""
        for index in indices:
            self._users[index].add(user)

    def used(self, user: Hashable, indices: Sequence[int]) -> None:
        """Notes that a user needs the parts no more; frees what nothing else needs."""
        for index in indices:
            self._users[index].discard(user)
            if not self._users[index]:
                for products in self._products:
                    products.release(index)

    def remove(self) -> None:
        """Removes all hooks, and frees what is still held."""
        for handle in self._handles:
            handle.remove()
        for products in self._products:
            products.release()

    def _before_forward(self, uses: Sequence[_Use], take: Callable[[int, Tensor], None], *_: Any) -> None:
        for module, name, index in uses:
            # within the unit's forward, the parameter is the whole one
            parameter = module._parameters[name]
            if parameter is not None and parameter.requires_grad and id(parameter) not in self._hooked:
                self._hooked[id(parameter)] = parameter
                self.expect(take, [index])
                self._handles.append(parameter.register_hook(partial(self._taken, index, take)))

    def _taken(self, index: int, take: Callable[[int, Tensor], None], gradient: Tensor) -> None:
        take(index, gradient)
        self.used(take, [index])

    def _after_forward(self, indices: Sequence[int], _: nn.Module, __: Any, output: Any) -> None:
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor) and tensor.requires_grad and torch.is_grad_enabled():
                tensor.register_hook(partial(self._enter, indices))

    def _enter(self, indices: Sequence[int], _: Tensor) -> None:
        for products in self._products:
            for index in indices:
                products.hold(index)


def _units(module: nn.Module, parameters: Sequence[Tensor]) -> dict[nn.Module, list[_Use]]:
    """The uses of the parameters in each unit, without those in units inside of it."""
    numbers = {id(parameter): index for index, parameter in enumerate(parameters)}
    units: dict[nn.Module, list[_Use]] = {}
    for child, unit in _with_units(module, None):
        for name, parameter in child._parameters.items():
            if unit is not None and id(parameter) in numbers:
                units.setdefault(unit, []).append((child, name, numbers[id(parameter)]))
    return units


def _with_units(module: nn.Module, unit: nn.Module | None) -> Iterator[tuple[nn.Module, nn.Module | None]]:
    unit = module if is_gathered_as_one(module) else unit
    yield module, unit
    for child in module.children():
        yield from _with_units(child, unit)
