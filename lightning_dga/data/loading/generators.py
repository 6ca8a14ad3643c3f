"""The random number generators that a data set draws from: the global ones, and those that it holds."""

import ctypes
import functools
import random
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

# the global generators, by what they belong to
GLOBAL = ("torch", "numpy", "random")
_KINDS = (np.random.Generator, np.random.RandomState, torch.Generator, random.Random)
# larger containers are not searched, because they are assumed to hold samples
_MOST_ELEMENTS, _MOST_OBJECTS = 256, 1000
# the layout of numpy's `mt19937_state`: 624 words and a position
_MT19937_BYTES = 625 * 4
_ENTRIES = ("__getitem__", "__call__", "forward")


def seed_global(key: int, kinds: Iterable[str] = GLOBAL) -> None:
    """Seeds torch's CPU generator, NumPy's global generator and ``random``, or some of them, from a 64-bit key.

    ``torch.manual_seed`` would seed every accelerator too, and is a hundred times slower.
    """
    for kind in kinds:
        if kind == "torch":
            torch.default_generator.manual_seed(key)
        elif kind == "numpy":
            # the upper half, because torch's generator is a Mersenne Twister too and is seeded with the lower half
            np.random.seed(key >> 32)
        else:
            random.seed(key)


def global_state() -> tuple[Any, ...]:
    """The states of the global generators, for :func:`set_global_state`."""
    return torch.default_generator.get_state(), np.random.get_state(), random.getstate()


def set_global_state(state: tuple[Any, ...]) -> None:
    """Restores the states of the global generators."""
    of_torch, of_numpy, of_random = state
    torch.default_generator.set_state(of_torch)
    np.random.set_state(of_numpy)
    random.setstate(of_random)


@contextmanager
def restored_global_state() -> Iterator[None]:
    """Restores the states of the global generators on exit."""
    state = global_state()
    try:
        yield
    finally:
        set_global_state(state)


class Fingerprint:
    """Detects which of the global generators were used since it was created.

    ``np.random.get_state`` takes longer than reading a sample, so the words of NumPy's generator are compared in place.

    Args:
        kinds: The generators that are watched, of ``GLOBAL``.
    """

    def __init__(self, kinds: Iterable[str] = GLOBAL) -> None:
        self._taken = {kind: _taken(kind) for kind in kinds}

    def changed(self) -> list[str]:
        """The generators that were drawn from or seeded."""
        return [kind for kind, before in self._taken.items() if not _is_equal(_taken(kind), before)]


def _taken(kind: str) -> Any:
    if kind == "torch":
        return torch.default_generator.get_state()
    if kind == "random":
        return random.getstate()
    generator = np.random.get_bit_generator()  # type: ignore[attr-defined]  # numpy's stubs lack it
    if type(generator) is np.random.MT19937:
        return ctypes.string_at(generator.ctypes.state_address, _MT19937_BYTES)
    return str(generator.state)


def _is_equal(one: Any, two: Any) -> bool:
    return torch.equal(one, two) if isinstance(one, torch.Tensor) else bool(one == two)


def generators_of(held: Any) -> list[Any]:
    """The generators reachable from an object by attributes, containers, closures and globals named in its code.

    Args:
        held: A data set or a function.

    Returns:
        Generators of NumPy, torch and ``random``, each once, in an order that is the same in every process.
    """
    found: list[Any] = []
    seen: set[int] = set()
    waiting = [held]
    while waiting and len(seen) < _MOST_OBJECTS:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, _KINDS):
            if not _is_global(thing):
                found.append(thing)
        else:
            waiting.extend(_reached_from(thing))
    return found


def seed_held(generators: Iterable[Any], key: int) -> None:
    """Seeds generators, each with a different seed derived from ``key``."""
    for number, generator in enumerate(generators):
        own = (key + number * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        if isinstance(generator, np.random.Generator):
            bits: Any = generator.bit_generator
            bits.state = type(bits)(own).state
        elif isinstance(generator, torch.Generator):
            generator.manual_seed(own)
        else:
            generator.seed(own & 0xFFFFFFFF)


def states_held(generators: Iterable[Any]) -> list[Any]:
    """The states of generators, for :func:`set_states_held`."""
    return [_state(generator) for generator in generators]


def set_states_held(generators: Iterable[Any], states: Iterable[Any]) -> None:
    """Puts generators back."""
    for generator, state in zip(generators, states, strict=True):
        if isinstance(generator, np.random.Generator):
            generator.bit_generator.state = state
        elif isinstance(generator, random.Random):
            generator.setstate(state)
        else:
            generator.set_state(state)


def _is_global(generator: Any) -> bool:
    """Whether it is one of the three global generators, or draws from the operating system and has no state."""
    is_one = generator in (torch.default_generator, np.random.mtrand._rand, random._inst)
    return is_one or isinstance(generator, random.SystemRandom)


def _state(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state()


def _reached_from(thing: Any) -> Iterator[Any]:
    if isinstance(thing, str | bytes | int | float | torch.Tensor | np.ndarray | type | types.ModuleType):
        return
    if isinstance(thing, dict | list | tuple | set | frozenset):
        if len(thing) <= _MOST_ELEMENTS:
            yield from thing.values() if isinstance(thing, dict) else thing
    elif isinstance(thing, types.FunctionType):
        yield from (cell.cell_contents for cell in thing.__closure__ or () if _is_filled(cell))
        yield from thing.__defaults__ or ()
        named = (thing.__globals__.get(name) for name in thing.__code__.co_names)
        yield from (value for value in named if isinstance(value, _KINDS))
    elif isinstance(thing, types.MethodType):
        yield from (thing.__self__, thing.__func__)
    elif isinstance(thing, functools.partial):
        yield from (thing.func, thing.args, thing.keywords)
    else:
        yield from getattr(thing, "__dict__", {}).values()
        entries = (getattr(type(thing), name, None) for name in _ENTRIES)
        yield from (entry for entry in entries if isinstance(entry, types.FunctionType))


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
