"""Every collective of the package.

With W data-parallel processes an update moves P + k numbers: one sum of the target gradient, after which
``<mean_r g_i^r, G> = mean_r <g_i^r, G>`` lets each process take its dots locally, and one packed sum of the k results.
Averaging the dots with each process's own target gradient instead is a different, wrong quantity.

Where parameters are sharded (FSDP2's DTensors) a process holds its part of the target gradient, and multiplies parts.
There a backward pass sums over processes by itself, and moves what one of training does: two or three times P.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

if dist.is_available():
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule, fully_shard
    from torch.distributed.tensor import DTensor


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def is_distributed() -> bool:
    """Whether this process is one of several that train together."""
    return world_size() > 1


class PeerFailure(Exception):
    """Another process failed in what all do together.

    Attributes:
        process: Its rank.
        error: What its error says of itself.
    """

    def __init__(self, process: int, error: str) -> None:
        super().__init__(f"Process {process} failed: {error}")
        self.process = process
        self.error = error


def known_to_all(error: Exception) -> bool:
    """Whether all processes know of an error, and raise as well."""
    return getattr(error, _KNOWN, False)


class _Meeting:
    """Where processes tell one another that they are well."""

    def __init__(self, device: torch.device, alike: tuple[type[Exception], ...]) -> None:
        self._device = device
        self._alike = alike

    def meet(self, error: Exception | None = None) -> None:
        """Waits for all processes, and raises where one of them comes with an error."""
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
        # an error of no agreed kind is the one to tell
        process, kind, message = min(failures, key=lambda failure: failure[1])
        return self._alike[kind](message) if kind >= 0 else PeerFailure(process, message)


_meetings: list[_Meeting] = []
# marks an error, wherever it is handed on to
_KNOWN = "_lightning_dga_known_to_all"


@contextmanager
def failing_together(
    device: torch.device,
    alike: tuple[type[Exception], ...] = (),
    on_error: Callable[[Exception], None] = lambda error: None,
) -> Iterator[None]:
    """Raises on all processes what is raised on one of them.

    Else those that did well would wait for the others in the next collective, or take part in one that is not theirs.
    So processes first tell one another that they are well, by one number, before each collective inside and at the end.
    Collectives that are done elsewhere, as FSDP2's in a forward pass, cannot be kept from waiting.

    Args:
        device: Where collectives are done.
        alike: Kinds of errors that are raised as such on all processes, made of the message alone. For others,
            processes that did well raise :class:`PeerFailure`.
        on_error: Called with an error of this process before others are told of it.
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
            # the others are gone, which may be what this process failed of
            raise error from raised
    finally:
        _meetings.remove(meeting)


def _meet() -> None:
    if _meetings:
        _meetings[-1].meet()


def all_reduce_(tensor: Tensor) -> Tensor:
    """Sums a tensor over all processes, in place; every process must call it, with the same shape."""
    if is_distributed():
        _meet()
        dist.all_reduce(tensor, op=dist.ReduceOp.SUM)
    return tensor


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether a flag is set on any process, so that all decide alike; every process must call it."""
    return bool(all_reduce_(torch.tensor(float(flag), device=device)).item())


def broadcast(tensor: Tensor, device: torch.device) -> Tensor:
    """The first process's copy of a small CPU tensor, so that all hold bit-identical values whatever their hardware."""
    if not is_distributed():
        return tensor
    _meet()
    shared = tensor.to(device)
    dist.broadcast(shared, src=0)
    return shared.to(tensor.device)


def gather_objects(value: Any) -> list[Any]:
    """A small object of every process, in their order; every process must call it."""
    if not is_distributed():
        return [value]
    _meet()
    full_tensor: list[Any] = [None] * world_size()
    dist.all_gather_object(full_tensor, value)
    return full_tensor


def differing_ranks(values: Tensor, device: torch.device) -> list[int]:
    """The processes whose numbers are not those of the most, so that they must not go on together.

    One collective of twice as many numbers, and a second only where there is a difference.

    Args:
        values: A few whole numbers, ``[n]`` int64; every process must call it with as many.
        device: Where collectives are done.
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
    """Short notes, one of each process, which any process can read while the others do whatever they do.

    Every process must make as many boards; each is empty at first.
    """

    def __init__(self) -> None:
        # its own connection: another thread may be waiting for an answer on the one that collectives use
        self._store = dist.PrefixStore(f"lightning_dga/{next(_boards)}", _default_store())

    def report(self, failure: str) -> None:
        """Tells all processes of a failure; an earlier one stays."""
        with suppress(RuntimeError):
            if not self.failure():
                self._store.set("failure", failure)

    def failure(self) -> str:
        """The failure that was reported first, or nothing."""
        return self._read("failure")

    def write(self, note: str) -> None:
        """Puts this process's note in the place of its last one."""
        with suppress(RuntimeError):
            self._store.set(str(rank()), note)

    def read(self) -> list[str]:
        """The notes by process; empty where there is none, or where the board is gone with the process that had it."""
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
    except RuntimeError:  # not every kind of store has another connection to give
        return store


class AsyncAgreement:
    """Lets processes agree on a small number at every step, without waiting for one another.

    The largest vote wins. It is counted on CPUs while training goes on, and told a step later; so training's devices
    and streams do not see it. Every process must vote at the same steps.
    """

    def __init__(self) -> None:
        self._group = dist.new_group(backend="gloo") if is_distributed() else None
        self._counted: tuple[Any, Tensor] | None = None

    def vote(self, choice: int) -> int:
        """Casts a vote, unless the one before had a result; gives that result (0: everybody voted 0).

        A process that is alone has its result at once.
        """
        if self._group is None:
            return choice
        earlier = self._result()
        if earlier == 0:
            self._count(choice)
        return earlier

    def close(self, choice: int) -> int:
        """Casts the last vote and waits for its result."""
        if self._group is None:
            return choice
        earlier = self._result()
        self._count(choice)
        result = max(earlier, self._result())
        self.end()
        return result

    def end(self) -> None:
        """Gives its connections up; every process must."""
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
    """Finds out whether all processes hold the same numbers, at every step, without waiting for one another.

    They are compared on CPUs while training goes on, and the result is told a step later; so training's devices and
    streams do not see it. Every process must compare at the same steps.
    """

    def __init__(self) -> None:
        self._group = dist.new_group(backend="gloo") if is_distributed() else None
        self._compared: tuple[Any, Tensor] | None = None

    def holds(self, *values: int) -> bool:
        """Whether the numbers of the comparison before were the same; starts to compare these."""
        held = self.ended()
        if self._group is not None:
            numbers = torch.tensor([*values, *(-value for value in values)])
            work = dist.all_reduce(numbers, op=dist.ReduceOp.MAX, group=self._group, async_op=True)
            self._compared = work, numbers
        return held

    def ended(self) -> bool:
        """Whether the numbers of the last comparison were the same."""
        if self._compared is None:
            return True
        work, numbers = self._compared
        self._compared = None
        work.wait()
        largest, smallest = numbers.chunk(2)
        return torch.equal(largest, -smallest)

    def close(self) -> None:
        """Gives its connections up; every process must."""
        if self._group is not None:
            dist.destroy_process_group(self._group)
            self._group = self._compared = None


def destroy_process_group() -> None:
    """Ends the process group when all processes are done with it; one that just exits can abort the others."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def is_sharded(parameters: Iterable[Tensor]) -> bool:
    """Whether any parameter is spread over processes, so that a backward pass sums over them by itself."""
    return dist.is_available() and any(isinstance(parameter, DTensor) for parameter in parameters)


def to_local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: all of it, where it is not spread over processes."""
    return tensor.to_local() if dist.is_available() and isinstance(tensor, DTensor) else tensor


def shard(module: nn.Module, parts: Iterable[nn.Module], mesh: "DeviceMesh", replicas: int = 1) -> None:
    """Spreads a module's parameters over the processes of a mesh (FSDP2); does nothing where they are already.

    Args:
        module: The module; every process must hold the same parameters.
        parts: Its submodules that are gathered one by one while it runs; what is left is gathered as one.
        mesh: The data-parallel processes.
        replicas: Into how many groups of neighbouring processes they fall, each of which holds all shards (HSDP).

    Raises:
        ValueError: If ``replicas`` does not divide the number of processes.
    """
    if not isinstance(module, FSDPModule):
        if replicas > 1:
            mesh = _replicated(mesh, replicas)
        for part in parts:
            fully_shard(part, mesh=mesh)
        fully_shard(module, mesh=mesh)


def _replicated(mesh: "DeviceMesh", replicas: int) -> "DeviceMesh":
    if mesh.size() % replicas:
        raise ValueError(f"`replicas` ({replicas}) must divide the number of processes ({mesh.size()}).")
    return DeviceMesh(mesh.device_type, mesh.mesh.view(replicas, -1), mesh_dim_names=("replicate", "shard"))


def reshard(module: nn.Module) -> None:
    """Makes FSDP2 drop what it gathered of the parameters, which is stale once they are changed by hand."""
    for child in module.modules():
        if dist.is_available() and isinstance(child, FSDPModule):
            child.reshard()


def replicas(tensor: Tensor) -> int:
    """How many processes hold the part of a tensor that this one holds."""
    if not (dist.is_available() and isinstance(tensor, DTensor)):
        return world_size()
    parts = 1
    for dimension, placement in enumerate(tensor.placements):
        parts *= tensor.device_mesh.size(dimension) if placement.is_shard() else 1
    return world_size() // parts


def full_tensor(part: Tensor, like: Tensor) -> Tensor:
    """The whole tensor that this is a part of, spread as ``like`` is; every process of its mesh must call it."""
    if not (dist.is_available() and isinstance(like, DTensor)):
        return part.view(like.shape)
    own = part.view(like.to_local().shape)
    whole = DTensor.from_local(
        own, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
    return whole.full_tensor()
