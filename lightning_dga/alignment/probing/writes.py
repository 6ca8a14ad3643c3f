"""Detects and undoes in-place writes to parameters and other tensors by the user's own loss function.

A momentum teacher that moves with every step, weights that are normalised in place, or an embedding with ``max_norm``
would otherwise change with every probe. A tensor is copied when it is first written to, so that a model whose loss does
not write in place, which is the usual case, needs no memory for this.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lightning_dga.alignment.probing.snapshots import StateChangedError
from lightning_dga.distributed import to_local

_OPERATORS = frozenset(
    {"__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ifloordiv__", "__imod__", "__ipow__"}
    | {"__iand__", "__ior__", "__ixor__", "__ilshift__", "__irshift__"}
)
_HARMLESS = frozenset({"requires_grad_", "detach_", "share_memory_", "rename_"})
_SET_DATA = torch.Tensor.data.__set__  # type: ignore[attr-defined]  # typed as a Tensor, is a descriptor
_PART = 1 << 20

_open: ContextVar["Writes | None"] = ContextVar("lightning_dga_writes", default=None)


class Writes:
    """Undoes in-place writes of the loss function to a set of tensors.

    Args:
        tensors: The tensors, with their names.
    """

    def __init__(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        self._tensors = [(name, tensor, tensor.detach()) for name, tensor in tensors]
        self._keys = [_key(alias) for _, _, alias in self._tensors]
        self._watched = set(self._keys) - {None}
        self._saved: dict[Any, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        self._replaced = False
        self._mode = _SeesWrites(self)

    @contextmanager
    def seen(self, *, undo: bool) -> Iterator[None]:
        """Detects writes within the block.

        Args:
            undo: Whether to undo them at the end. Undoing before the backward pass would change what that pass uses.

        Raises:
            StateChangedError: If a tensor was written to in a way that cannot be intercepted.
        """
        self.undo()
        versions = [alias._version for _, _, alias in self._tensors]
        try:
            with self._mode:
                yield
            self._check(versions)
        finally:
            if undo:
                self.undo()

    def before_write(self, tensor: Tensor) -> None:
        """Must be called before a tensor, or a view of one, is written to."""
        key = _key(tensor)
        if key in self._watched and key not in self._saved:
            storage = to_local(tensor).untyped_storage()
            self._saved[key] = storage, storage.clone()

    def before_replacement(self) -> None:
        """Must be called before a tensor's storage is replaced."""
        self._replaced = True

    @torch.no_grad()
    def undo(self) -> None:
        """Undoes all writes since the last call."""
        if self._replaced:
            for (_, tensor, alias), key in zip(self._tensors, self._keys, strict=True):
                if _key(tensor) != key:
                    tensor.data = alias
        for storage, content in self._saved.values():
            storage.copy_(content)
        self._saved, self._replaced = {}, False

    @torch.no_grad()
    def checksums(self) -> list[int]:
        """A checksum of each tensor's content."""
        return [_checksum(tensor) for _, tensor, _ in self._tensors]

    def differing(self, checksums: Sequence[int]) -> list[str]:
        """Names of the tensors whose checksums differ."""
        pairs = zip(self._tensors, checksums, self.checksums(), strict=True)
        return [name for (name, _, _), before, now in pairs if before != now]

    def _check(self, versions: Sequence[int]) -> None:
        for (name, _, alias), key, version in zip(self._tensors, self._keys, versions, strict=True):
            if alias._version != version and key not in self._saved:
                raise StateChangedError(unseen(name))


class _SeesWrites(TorchFunctionMode):
    def __init__(self, writes: Writes) -> None:
        super().__init__()
        self._writes = writes

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func == _SET_DATA:
            self._writes.before_replacement()
        else:
            for argument in _written(func, args, kwargs):
                for tensor in argument if isinstance(argument, (list, tuple)) else (argument,):
                    if isinstance(tensor, Tensor):
                        self._writes.before_write(tensor)
        return func(*args, **kwargs)


@contextmanager
def undone(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[Writes]:
    """Undoes in-place writes to some tensors by the losses that are measured within the block."""
    writes = Writes(tensors)
    token = _open.set(writes)
    try:
        yield writes
    finally:
        _open.reset(token)
        writes.undo()


@contextmanager
def loss_measured(*, with_graph: bool) -> Iterator[None]:
    """Wraps each call of the loss function; its writes are undone after the backward pass, or at once without one."""
    writes = _open.get()
    if writes is None:
        yield
    else:
        with writes.seen(undo=not with_graph):
            yield


def undo_writes() -> None:
    """Undoes the writes of the loss function; must be called after a backward pass."""
    writes = _open.get()
    if writes is not None:
        writes.undo()


def unseen(name: str) -> str:
    """The error message for a tensor that was changed without being detected in time."""
    return (
        f"Measuring the loss changed `{name}`, in a way that cannot be undone. Define `alignment_loss(batch)` on the "
        "module, or give the callback `loss_fn(pl_module, batch)`, that leaves it alone."
    )


def _written(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Iterable[Any]:
    """The arguments that a torch function writes to, tensors or lists of tensors."""
    name = getattr(func, "__name__", "")
    if "out" in kwargs:
        return (kwargs["out"],)
    if name.startswith("_fused_"):
        return args
    if name.startswith("embedding"):
        # `max_norm` scales the rows that are looked up in place
        return args[1:2] if kwargs.get("max_norm") is not None else ()
    in_place = (name.endswith("_") and not name.endswith("__") and name not in _HARMLESS) or name in _OPERATORS
    if in_place or kwargs.get("inplace"):
        return args[:1] or tuple(kwargs.values())
    return ()


def _key(tensor: Tensor) -> Any:
    """A key of a tensor's storage; ``None`` if it has no storage."""
    try:
        part = to_local(tensor)
        pointer = part.untyped_storage().data_ptr() if part.numel() else 0
    except (RuntimeError, NotImplementedError):  # sparse, functional or fake tensors
        return None
    return (part.device, pointer) if pointer else None


def _checksum(tensor: Tensor) -> int:
    part = to_local(tensor.detach())
    if part.layout != torch.strided or part.is_meta or not part.numel():
        return 0
    flat = part.contiguous().view(-1).view(torch.uint8)
    flat = flat if len(flat) % 4 else flat.view(torch.int32)
    sums = torch.zeros((), dtype=torch.int64, device=flat.device)
    places = torch.arange(1, min(len(flat), _PART) + 1, device=flat.device)
    for start in range(0, len(flat), _PART):
        piece = flat[start : start + _PART].long()
        # weighted by position, so that swapping two values changes the checksum
        sums = sums * 31 + (piece * places[: len(piece)]).sum()
    return int(sums)
