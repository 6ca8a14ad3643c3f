"""Every collective of the package.

With a world size of W, an update communicates P + k numbers for P parameters and k domains: one all-reduce of the
target gradient, after which ``<mean_r g_i^r, G> = mean_r <g_i^r, G>`` lets each rank compute its dot products locally,
and one packed all-reduce of the k results. Averaging dot products with each rank's own target gradient instead gives a
different, wrong quantity.

Where parameters are sharded (FSDP2's DTensors), a rank holds its shard of the target gradient and multiplies shards.
There the backward pass itself reduces over ranks and communicates what a training backward pass does: two or three
times P.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count, islice
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

if dist.is_available():
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule, fully_shard
    from torch.distributed.tensor import DTensor

_T = TypeVar("_T")


def world_size() -> int:
    """The world size: number of processes in the default process group; 1 if there is none."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The rank of this process; 0 if there is no process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def is_distributed() -> bool:
    """Whether the world size is larger than 1."""
    return world_size() > 1


class PeerFailure(Exception):
    """Another rank failed in an operation that involves all ranks.

    Attributes:
        process: The rank that failed.
        error: The ``repr`` of its error, or its message if the error is of an agreed type.
    """

    def __init__(self, process: int, error: str) -> None:
        super().__init__(f"Rank {process} failed: {error}")
        self.process = process
        self.error = error


def known_to_all(error: Exception) -> bool:
    """Whether the error was shared with all ranks, so that every rank raises."""
    return getattr(error, _KNOWN, False)


class _Meeting:
    """A point at which all ranks report to one another whether they have failed."""

    def __init__(self, device: torch.device, alike: tuple[type[Exception], ...]) -> None:
        self._device = device
        self._alike = alike

    def meet(self, error: Exception | None = None) -> None:
        """Waits for all ranks; raises on every rank if any rank reports an error."""
        failed = torch.tensor(float(error is not None), device=self._device)
        dist.all_reduce(failed)
        if not failed.item():
            return
        told: list[tuple[int, str] | None] = [None] * world_size()
        dist.all_gather_object(told, None if error is None else self._message(error))
        if error is None:
            error = self._of_others(told)
        setattr(error, _KNOWN, True)
        raise error

    def _message(self, error: Exception) -> tuple[int, str]:
        kind = next((number for number, kind in enumerate(self._alike) if isinstance(error, kind)), -1)
        return kind, str(error) if kind >= 0 else repr(error)

    def _of_others(self, told: list[tuple[int, str] | None]) -> Exception:
        failures = [(process, *one) for process, one in enumerate(told) if one is not None]
        # an error of none of the agreed types takes precedence
        process, kind, message = min(failures, key=lambda failure: failure[1])
        return self._alike[kind](message) if kind >= 0 else PeerFailure(process, message)


_meetings: list[_Meeting] = []
# attribute set on an error that all ranks know of; it stays with the error as it propagates
_KNOWN = "_lightning_dga_known_to_all"


@contextmanager
def failing_together(
    device: torch.device,
    alike: tuple[type[Exception], ...] = (),
    on_error: Callable[[Exception], None] = lambda error: None,
) -> Iterator[None]:
    """Raises on all ranks if any rank raises within the block.

    Otherwise the ranks without an error would wait in the next collective, or match it with a different one. So before
    each collective of this module inside the block, and at its end, the ranks all-reduce one number that says whether
    any has failed. Collectives outside this module, such as FSDP2's in a forward pass, may still wait.

    Args:
        device: The device for the collectives.
        alike: Error types that are raised as such on all ranks, constructed from the message alone. For any other type,
            the ranks without an error raise :class:`PeerFailure`.
        on_error: Called with this rank's error before the other ranks learn of it.
    """
    if not is_distributed():
        yield
        return
    meeting = _Meeting(device, alike)
    _meetings.append(meeting)
    try:
        yield
        meeting.meet()
    except Exception as error:
        if known_to_all(error):
            raise
        on_error(error)
        try:
            meeting.meet(error)
        except Exception as raised:
            if raised is error:
                raise
            # the other ranks are gone, which may be the cause of this rank's error
            raise error from raised
    finally:
        _meetings.remove(meeting)


def _meet() -> None:
    if _meetings:
        _meetings[-1].meet()


def all_reduce_(tensor: Tensor) -> Tensor:
    """Sums a tensor over all ranks, in place; every rank must call it, with the same shape."""
    if is_distributed():
        _meet()
        dist.all_reduce(tensor, op=dist.ReduceOp.SUM)
    return tensor


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether a flag is set on any rank, so that all ranks take the same decision; every rank must call it."""
    return bool(all_reduce_(torch.tensor(float(flag), device=device)).item())


def in_lockstep(items: Iterable[_T], spare: Callable[[], _T], device: torch.device) -> Iterator[tuple[_T, bool]]:
    """Each rank's own items, in as many turns on every rank, for passes that themselves wait for all ranks.

    Every rank must call it, and one number is all-reduced before each turn.

    Args:
        items: This rank's items; ranks may have different numbers of them.
        spare: Makes an item for a rank that never had one.
        device: The device for the collectives.

    Yields:
        An item, and whether it is this rank's own; a rank with none left gets its last one again.
    """
    own = iter(items)
    last: list[_T] = []
    while True:
        found = list(islice(own, 1))
        if not any_rank(bool(found), device):
            return
        last = found or last or [spare()]
        yield last[0], bool(found)


def broadcast(tensor: Tensor, device: torch.device) -> Tensor:
    """Rank 0's copy of a small CPU tensor, so that all ranks hold bit-identical values whatever their hardware."""
    if not is_distributed():
        return tensor
    _meet()
    shared = tensor.to(device)
    dist.broadcast(shared, src=0)
    return shared.to(tensor.device)


def gather_objects(value: Any) -> list[Any]:
    """A small object from every rank, in order of rank; every rank must call it."""
    if not is_distributed():
        return [value]
    _meet()
    full_tensor: list[Any] = [None] * world_size()
    dist.all_gather_object(full_tensor, value)
    return full_tensor


def differing_ranks(values: Tensor, device: torch.device) -> list[int]:
    """The ranks whose values differ from those that most ranks hold, so that training must not continue.

    Costs one all-reduce of 2n numbers, and an all-gather only if there is a difference.

    Args:
        values: A few integers, ``[n]`` int64; every rank must call it, with the same n.
        device: The device for the collectives.
    """
    if not is_distributed():
        return []
    _meet()
    largest = torch.cat([values, -values]).to(device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    if bool((largest[: len(values)] == -largest[len(values) :]).all()):
        return []
    each = [torch.empty_like(values, device=device) for _ in range(world_size())]
    dist.all_gather(each, values.to(device))
    held = [tuple(one.tolist()) for one in each]
    usual = max(held, key=held.count)
    return [index for index, one in enumerate(held) if one != usual]


_boards = count()


class StatusStore:
    """One short status note per rank in the distributed key-value store, readable at any time without a collective.

    Every rank must create the same number of stores, in the same order; each is empty at first.
    """

    def __init__(self) -> None:
        # a connection of its own: another thread may be blocked on the one that collectives use
        self._store = dist.PrefixStore(f"lightning_dga/{next(_boards)}", _default_store())

    def report(self, failure: str) -> None:
        """Publishes a failure to all ranks, unless one was published before."""
        with suppress(RuntimeError):
            if not self.failure():
                self._store.set("failure", failure)

    def failure(self) -> str:
        """The first failure that was reported; empty if there is none."""
        return self._read("failure")

    def write(self, note: str) -> None:
        """Replaces this rank's note."""
        with suppress(RuntimeError):
            self._store.set(str(rank()), note)

    def read(self) -> list[str]:
        """The notes by rank; empty where there is none, or if the process that hosts the store is gone."""
        return [self._read(str(index)) for index in range(world_size())]

    def _read(self, key: str) -> str:
        with suppress(RuntimeError):
            if self._store.check([key]):
                note: bytes = self._store.get(key)
                return note.decode()
        return ""


def _default_store() -> Any:
    store = dist.distributed_c10d._get_default_store()
    clone = getattr(store, "clone", None)
    try:
        return clone() if clone is not None else store
    except RuntimeError:  # some store types cannot open another connection
        return store


class AsyncAgreement:
    """Lets ranks agree on a small integer at every step, without blocking training.

    The result is the maximum over ranks. It is computed by an asynchronous all-reduce on the CPU (gloo) and read one
    step later, so it uses none of the training devices or streams. Every rank must vote at the same steps.
    """

    def __init__(self) -> None:
        self._group = dist.new_group(backend="gloo") if is_distributed() else None
        self._counted: tuple[Any, Tensor] | None = None

    def vote(self, choice: int) -> int:
        """Returns the previous vote's result (0: every rank voted 0), and casts a new vote only if that was 0.

        With a world size of 1 the result is immediate.
        """
        if self._group is None:
            return choice
        earlier = self._result()
        if earlier == 0:
            self._count(choice)
        return earlier

    def close(self, choice: int) -> int:
        """Casts the last vote, waits for it, and returns the larger of its result and the one before."""
        if self._group is None:
            return choice
        earlier = self._result()
        self._count(choice)
        result = max(earlier, self._result())
        self.end()
        return result

    def end(self) -> None:
        """Destroys its process group; every rank must call it."""
        if self._group is not None:
            dist.destroy_process_group(self._group)
            self._group = None

    def _count(self, choice: int) -> None:
        votes = torch.tensor(choice)
        self._counted = dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=self._group, async_op=True), votes

    def _result(self) -> int:
        if self._counted is None:
            return 0
        work, votes = self._counted
        self._counted = None
        work.wait()
        return int(votes.item())


class Agreement:
    """Checks at every step whether all ranks hold the same numbers, without blocking training.

    The numbers are compared by an asynchronous all-reduce on the CPU (gloo) and the result is read one step later, so
    it uses none of the training devices or streams. Every rank must compare at the same steps.
    """

    def __init__(self) -> None:
        self._group = dist.new_group(backend="gloo") if is_distributed() else None
        self._compared: tuple[Any, Tensor] | None = None

    def holds(self, *values: int) -> bool:
        """Whether the previous comparison found equal numbers on all ranks; starts the comparison of these."""
        held = self.ended()
        if self._group is not None:
            numbers = torch.tensor([*values, *(-value for value in values)])
            work = dist.all_reduce(numbers, op=dist.ReduceOp.MAX, group=self._group, async_op=True)
            self._compared = work, numbers
        return held

    def ended(self) -> bool:
        """Waits for the last comparison; whether its numbers were the same on all ranks."""
        if self._compared is None:
            return True
        work, numbers = self._compared
        self._compared = None
        work.wait()
        largest, smallest = numbers.chunk(2)
        return torch.equal(largest, -smallest)

    def close(self) -> None:
        """Destroys its process group; every rank must call it."""
        if self._group is not None:
            dist.destroy_process_group(self._group)
            self._group = self._compared = None


def destroy_process_group() -> None:
    """Destroys the process group once all ranks are done with it; a rank that simply exits can abort the others."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def is_sharded(parameters: Iterable[Tensor]) -> bool:
    """Whether any parameter is sharded (a ``DTensor``), so that a backward pass itself reduces over ranks."""
    return dist.is_available() and any(isinstance(parameter, DTensor) for parameter in parameters)


def to_local(tensor: Tensor) -> Tensor:
    """This rank's shard of a tensor; the whole tensor if it is not sharded."""
    return tensor.to_local() if dist.is_available() and isinstance(tensor, DTensor) else tensor


def shard(module: nn.Module, parts: Iterable[nn.Module], mesh: "DeviceMesh", replicas: int = 1) -> None:
    """Shards a module's parameters over a mesh (FSDP2); does nothing if they are sharded already.

    Args:
        module: The module; every rank must hold the same parameters.
        parts: Submodules that are all-gathered one by one in the forward pass; the rest is gathered as one group.
        mesh: The data-parallel device mesh.
        replicas: Number of groups of consecutive ranks, each of which holds a complete set of shards (HSDP).

    Raises:
        ValueError: If ``replicas`` does not divide the size of the mesh.
    """
    if not isinstance(module, FSDPModule):
        if replicas > 1:
            mesh = _replicated(mesh, replicas)
        for part in parts:
            fully_shard(part, mesh=mesh)
        fully_shard(module, mesh=mesh)


def _replicated(mesh: "DeviceMesh", replicas: int) -> "DeviceMesh":
    if mesh.size() % replicas:
        raise ValueError(f"`replicas` ({replicas}) must divide the number of ranks ({mesh.size()}).")
    return DeviceMesh(mesh.device_type, mesh.mesh.view(replicas, -1), mesh_dim_names=("replicate", "shard"))


def reshard(module: nn.Module) -> None:
    """Makes FSDP2 free the unsharded parameters, which are outdated once the shards are changed by hand."""
    for child in module.modules():
        if dist.is_available() and isinstance(child, FSDPModule):
            child.reshard()


def is_gathered_as_one(module: nn.Module) -> bool:
    """Whether FSDP2 gathers the module's parameters together, except those of such modules inside of it."""
    return dist.is_available() and isinstance(module, FSDPModule)


def replicas(tensor: Tensor) -> int:
    """How many ranks hold the same shard of a tensor as this rank."""
    if not (dist.is_available() and isinstance(tensor, DTensor)):
        return world_size()
    parts = 1
    for dimension, placement in enumerate(tensor.placements):
        parts *= tensor.device_mesh.size(dimension) if placement.is_shard() else 1
    return world_size() // parts


def full_tensor(part: Tensor, like: Tensor) -> Tensor:
    """The unsharded tensor that ``part`` is a shard of, laid out as ``like``; every rank of its mesh must call it."""
    if not (dist.is_available() and isinstance(like, DTensor)):
        return part.view(like.shape)
    own = part.view(like.to_local().shape)
    whole = DTensor.from_local(
        own, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
    return whole.full_tensor()
