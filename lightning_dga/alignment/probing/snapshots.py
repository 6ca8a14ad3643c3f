"""Snapshots of a model's Python state, such as counters, lists and random number generators, and their restoration.

Objects keep their identity: a list is refilled and not replaced, so that other references to it stay valid.
"""

import copy
import io
import itertools
import random
import types
import warnings
import weakref
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

# larger tensors are not copied in advance, but when they are first written to; see `writes`
_SMALL = 4096
# arrays above this size (bytes) are only compared by checksum, and a change of them is an error
_LARGE_ARRAY = 1 << 26
# for a collection with more members than this, only the collection itself is restored
_MOST_MEMBERS = 100_000

_MODULE_INTERNALS = frozenset(vars(nn.Module()))
_ATOMS = frozenset(
    {int, float, complex, bool, str, bytes, type(None), type, range, slice, torch.dtype, torch.device, torch.Size}
    | {types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, type(Ellipsis)}
    | {weakref.ref, weakref.ProxyType, weakref.CallableProxyType}
)
# objects of these packages depend on threads, files, other processes or the Trainer, and are not restored
_LEFT_ALONE = frozenset(
    {"lightning", "lightning_fabric", "pytorch_lightning", "lightning_dga", "torch", "torchvision", "torchaudio"}
    | {"transformers", "tokenizers", "datasets", "wandb", "mlflow", "tensorboard", "tensorboardX", "comet_ml"}
    | {"neptune", "clearml", "aim", "swanlab", "ray", "tqdm", "rich", "logging", "threading", "_thread"}
    | {"multiprocessing", "concurrent", "asyncio", "queue", "_queue", "subprocess", "socket", "ssl", "io", "_io"}
    | {"pathlib", "re", "weakref", "contextvars", "inspect", "omegaconf", "hydra", "pandas", "pyarrow", "polars"}
    | {"PIL", "h5py", "zarr", "matplotlib", "plotly", "sqlite3", "numpy"}
)
_LOOKED_INTO = ("torch.optim", "torch.amp", "torch.cuda.amp")
_RESTARTABLE = (
    type(iter([0])),
    type(iter((0,))),
    type(iter("")),
    type(iter({0: 0})),
    type(iter({0})),
    type(iter(range(0))),
)


class StateChangedError(RuntimeError):
    """A probe changed, or would change, something that cannot be restored."""


class Snapshot:
    """A snapshot of the state reachable from modules and objects.

    Covered, in containers and plain objects at any depth: lists, dicts, sets, deques and their subclasses, NumPy
    arrays, small tensors, random number generators of torch, NumPy and :mod:`random`, attributes of objects,
    unregistered modules, optimizers and learning rate schedulers. Items taken from an iterator cannot be put back:
    until :meth:`restore`, probes see a copy of the iterator, or a placeholder that raises when an item is taken.

    Args:
        modules: Registered modules; of their tensors only those among their plain attributes are covered.
        also: Other objects.

    Attributes:
        tensors: The tensors that were found and are too large to be copied in advance, with their paths.
    """

    def __init__(self, modules: Iterable[nn.Module], also: Iterable[Any] = ()) -> None:
        self.tensors: list[tuple[str, Tensor]] = []
        self._restores: list[Callable[[], Any]] = []
        self._stand_ins: list[Callable[[], None]] = []
        self._seen: dict[int, Any] = {}
        # outermost first, so that an object is named by the shortest path to it
        self._waiting: deque[tuple[str, Any]] = deque()
        own = list(modules)
        self._seen.update((id(module), module) for module in own)
        for module in own:
            self._of_module(module)
        self._waiting.extend((type(value).__name__, value) for value in also)
        while self._waiting:
            self._remember(*self._waiting.popleft())
        for put_in_place in self._stand_ins:
            put_in_place()

    def restore(self) -> None:
        """Restores everything.

        Raises:
            StateChangedError: If something changed that was too large to be copied.
        """
        errors = []
        for restore in self._restores:
            try:
                restore()
            except StateChangedError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _of_module(self, module: nn.Module) -> None:
        attributes = vars(module)
        plain = {name: value for name, value in attributes.items() if name not in _MODULE_INTERNALS}
        self._restores.append(partial(_refill_attributes, attributes, plain, _MODULE_INTERNALS))
        for registry in (module._parameters, module._modules):
            self._restores.append(partial(_refill_dict, registry, dict(registry)))
        self._members(type(module).__name__, plain.items(), ".{}", attributes.__setitem__)

    def _remember(self, path: str, value: Any) -> None:
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if isinstance(value, Tensor):
            self._tensor(path, value)
        elif isinstance(value, np.ndarray):
            self._array(path, value)
        elif (generator := _generator(value)) is not None:
            self._restores.append(generator)
        elif isinstance(value, bytearray):
            self._restores.append(partial(_refill_list, value, bytes(value)))
        elif isinstance(value, (list, deque)):
            refill: Callable[..., None] = _refill_list if isinstance(value, list) else _refill_deque
            self._restores.append(partial(refill, value, [*value]))
            self._members(path, enumerate(value), "[{}]", value.__setitem__)
        elif isinstance(value, set):
            self._restores.append(partial(_refill_set, value, set(value)))
            self._members(path, enumerate(value), "{{{}}}", None)
        elif isinstance(value, dict):
            self._restores.append(partial(_refill_dict, value, dict(value)))
            self._members(path, list(dict.items(value)), "[{!r}]", partial(dict.__setitem__, value))
        elif isinstance(value, (tuple, frozenset, Mapping)) and type(value).__module__ != "weakref":
            members = value.items() if isinstance(value, Mapping) else enumerate(value)
            self._members(path, members, "[{!r}]", None)
        elif isinstance(value, partial):
            self._members(path, enumerate((value.args, value.keywords)), "({})", None)
        if _is_plain(value):
            self._object(path, value)

    def _object(self, path: str, value: Any) -> None:
        attributes = getattr(value, "__dict__", None)
        if isinstance(attributes, dict):
            self._restores.append(partial(_refill_attributes, attributes, dict(attributes), frozenset()))
            self._members(path, list(attributes.items()), ".{}", attributes.__setitem__)
        slots = {name: getattr(value, name) for name in _slots(type(value)) if hasattr(value, name)}
        if slots:
            self._restores.append(partial(_refill_slots, value, slots))
            self._members(path, slots.items(), ".{}", partial(object.__setattr__, value))

    def _members(
        self, path: str, members: Iterable[tuple[Any, Any]], form: str, put: Callable[[Any, Any], None] | None
    ) -> None:
        found = [(key, member) for key, member in members if type(member) not in _ATOMS]
        if len(found) > _MOST_MEMBERS:
            return
        for key, member in found:
            name = path + form.format(key)
            if put is not None and _is_iterator(member):
                self._stand_ins.append(partial(put, key, _stand_in(name, member)))
            else:
                self._waiting.append((name, member))

    def _tensor(self, path: str, tensor: Tensor) -> None:
        if is_lazy(tensor) or tensor.is_meta:
            return
        if type(tensor) in (Tensor, nn.Parameter) and tensor.nbytes <= _SMALL and tensor.layout == torch.strided:
            self._restores.append(partial(refill_tensor, tensor, tensor.detach().clone()))
        else:
            self.tensors.append((path, tensor))

    def _array(self, path: str, array: np.ndarray[Any, Any]) -> None:
        if not array.flags.writeable or isinstance(array, np.memmap):
            return
        if array.nbytes <= _LARGE_ARRAY:
            self._restores.append(partial(_refill_array, array, array.copy()))
            if array.dtype == object:
                self._members(path, enumerate(array.ravel()), "[{}]", None)
        elif array.dtype != object:
            self._restores.append(partial(_check_array, path, array, _checksum(array)))


class _Spent:
    """A placeholder for an iterator during probes."""

    def __init__(self, path: str, iterator: Any) -> None:
        self._path = path
        self._iterator = iterator

    def __iter__(self) -> "_Spent":
        return self

    def __next__(self) -> Any:
        raise StateChangedError(
            f"The loss to align takes the next item of `{self._path}`, a {type(self._iterator).__name__}, which "
            "training would then miss. Define `alignment_loss(batch)` on the module, or give the callback "
            "`loss_fn(pl_module, batch)`, that does not use it."
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._iterator, name)


def refill_tensor(tensor: Tensor, content: Tensor) -> None:
    """Restores a tensor's content if it has changed."""
    with torch.no_grad():
        if tensor.shape != content.shape or tensor.dtype != content.dtype:
            tensor.data = content
        elif not _same_bits(tensor, content):
            tensor.copy_(content)


def _same_bits(tensor: Tensor, content: Tensor) -> bool:
    # bitwise: NaN equals itself, and -0.0 does not equal 0.0
    try:
        return torch.equal(tensor.contiguous().view(torch.uint8), content.contiguous().view(torch.uint8))
    except RuntimeError:  # a dtype that cannot be viewed as bytes
        return False


def _generator(value: Any) -> Callable[[], Any] | None:
    if isinstance(value, torch.Generator):
        return partial(value.set_state, value.get_state())
    if isinstance(value, np.random.Generator):
        return partial(setattr, value.bit_generator, "state", copy.deepcopy(value.bit_generator.state))
    if isinstance(value, np.random.BitGenerator):
        return partial(setattr, value, "state", copy.deepcopy(value.state))
    if isinstance(value, np.random.RandomState):
        return partial(value.set_state, value.get_state())
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        return partial(value.setstate, value.getstate())
    return None


def _is_iterator(value: Any) -> bool:
    if not hasattr(type(value), "__next__") or isinstance(value, io.IOBase):
        return False
    # an iterator written in Python keeps its state in attributes, which are covered there
    return not _is_plain(value)


def _stand_in(path: str, iterator: Any) -> Any:
    if isinstance(iterator, (*_RESTARTABLE, itertools.count)):
        try:
            with warnings.catch_warnings():
                # Python 3.12 and 3.13 warn that 3.14 will not copy iterators of itertools
                warnings.simplefilter("ignore", DeprecationWarning)
                return copy.copy(iterator)
        except TypeError:  # from Python 3.14 on itertools cannot be copied
            pass
    return _Spent(path, iterator)


def _is_plain(value: Any) -> bool:
    """Whether an object's attributes are searched."""
    kind = type(value)
    if isinstance(value, nn.Module):
        return True
    if isinstance(value, (type, Enum, BaseException, types.GeneratorType, types.CoroutineType)) or kind in _ATOMS:
        return False
    if kind.__module__.startswith(_LOOKED_INTO):
        return True
    if any(base.__module__.split(".")[0] in _LEFT_ALONE for base in kind.__mro__):
        # covers subclasses by the user of torch's optimizers, schedulers and generators
        return any(base.__module__.startswith(_LOOKED_INTO) for base in kind.__mro__)
    attributes = getattr(value, "__dict__", None)
    if isinstance(attributes, dict):
        # an object with a lock is shared with another thread
        return not any(type(member).__module__ in ("_thread", "threading") for member in attributes.values())
    return bool(_slots(kind))


def _slots(kind: type) -> list[str]:
    names: list[str] = []
    for base in kind.__mro__:
        own = vars(base).get("__slots__", ())
        for name in [own] if isinstance(own, str) else own:
            private = name.startswith("__") and not name.endswith("__")
            own_name = f"_{base.__name__.lstrip('_')}{name}" if private else name
            if isinstance(vars(base).get(own_name), types.MemberDescriptorType):
                names.append(own_name)
    return names


def _refill_attributes(attributes: dict[str, Any], content: Mapping[str, Any], others: frozenset[str]) -> None:
    for name in [name for name in attributes if name not in content and name not in others]:
        del attributes[name]
    attributes.update(content)


def _refill_slots(value: Any, content: Mapping[str, Any]) -> None:
    for name, member in content.items():
        if getattr(value, name, None) is not member:
            object.__setattr__(value, name, member)


def _refill_list(members: Any, content: Any) -> None:
    if len(members) != len(content) or any(a is not b for a, b in zip(members, content, strict=True)):
        members[:] = content


def _refill_deque(members: deque[Any], content: list[Any]) -> None:
    if len(members) != len(content) or any(a is not b for a, b in zip(members, content, strict=True)):
        members.clear()
        members.extend(content)


def _refill_set(members: set[Any], content: set[Any]) -> None:
    # compared by identity if members hash by identity, else by value
    if members != content:
        members.clear()
        members.update(content)


def _refill_dict(members: dict[Any, Any], content: dict[Any, Any]) -> None:
    # uses `dict`'s methods and not those of a subclass, which may have side effects
    kind = OrderedDict if isinstance(members, OrderedDict) else dict
    same = len(members) == len(content) and all(
        a is b and x is y for (a, x), (b, y) in zip(kind.items(members), content.items(), strict=True)
    )
    if not same:
        kind.clear(members)
        for key, value in content.items():
            kind.__setitem__(members, key, value)


def _refill_array(array: np.ndarray[Any, Any], content: np.ndarray[Any, Any]) -> None:
    array[...] = content


def _check_array(path: str, array: np.ndarray[Any, Any], checksum: int) -> None:
    if _checksum(array) != checksum:
        raise StateChangedError(
            f"Measuring the loss changed `{path}`, an array of {array.nbytes / 2**20:,.0f} MiB, which is too large to "
            "be copied for each alignment. Define `alignment_loss(batch)` on the module, or give the callback "
            "`loss_fn(pl_module, batch)`, that does not change it."
        )


def _checksum(array: np.ndarray[Any, Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(array).data.cast("B"))
