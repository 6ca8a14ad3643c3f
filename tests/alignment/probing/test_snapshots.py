"""Counters, collections and random numbers that a step changes are restored, wherever a model holds them."""

import itertools
import random
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR
from torchmetrics import MeanMetric

from lightning_dga.alignment import isolated
from lightning_dga.alignment.probing.snapshots import StateChangedError

Pair = namedtuple("Pair", "left right")


class Meter:
    """A plain helper, as projects have them."""

    def __init__(self):
        self.total, self.history, self.inner = 0.0, [], None

    def add(self):
        self.total += 1.5
        self.history.append(self.total)


class Slotted:
    __slots__ = ("count",)

    def __init__(self):
        self.count = 0


@dataclass
class Record:
    seen: set = field(default_factory=set)
    counts: np.ndarray = field(default_factory=lambda: np.zeros(3))


def metric():
    return {"by name": (MeanMetric(),)}


def optimizer():
    parameter = nn.Parameter(torch.ones(2000))
    parameter.grad = torch.ones(2000)
    return torch.optim.Adam([parameter])


def stepped(made):
    made.step()


# what is held, how a step changes it, and what is to be the same as before
HELD = {
    "list": (list, lambda o: o.append(1), list),
    "deque": (lambda: deque([1, 2], maxlen=2), lambda o: o.append(3), list),
    "set": (set, lambda o: o.add(1), set),
    "dict": (dict, lambda o: o.update(a=1), dict),
    "Counter": (Counter, lambda o: o.update("ab"), dict),
    "defaultdict": (lambda: defaultdict(list), lambda o: o["a"].append(1), dict),
    "OrderedDict": (lambda: OrderedDict(a=1, b=2), lambda o: o.move_to_end("a"), list),
    "bytearray": (lambda: bytearray(b"ab"), lambda o: o.extend(b"c"), bytes),
    "array": (lambda: np.zeros(3), lambda o: o.__setitem__(1, 5.0), np.ndarray.tolist),
    "array of objects": (lambda: np.array([[], [1]], dtype=object), lambda o: o[0].append(2), str),
    "tensor": (lambda: torch.zeros(3), lambda o: o.add_(1), torch.Tensor.tolist),
    "large tensor": (lambda: torch.zeros(5000), lambda o: o.add_(1), torch.Tensor.tolist),
    "large tensor by a view": (lambda: torch.zeros(5000), lambda o: o[10:].fill_(1), torch.Tensor.tolist),
    "list in a tuple in a dict": (lambda: {"a": ([],)}, lambda o: o["a"][0].append(1), repr),
    "namedtuple": (lambda: Pair([], 1), lambda o: o.left.append(1), repr),
    "helper": (Meter, Meter.add, lambda o: (o.total, list(o.history))),
    "helper in a list": (lambda: [Meter()], lambda o: o[0].add(), lambda o: (o[0].total, list(o[0].history))),
    "helper that gets an attribute": (Meter, lambda o: setattr(o, "new", 1), lambda o: sorted(vars(o))),
    "slots": (Slotted, lambda o: setattr(o, "count", 2), lambda o: o.count),
    "dataclass": (Record, lambda o: (o.seen.add(1), o.counts.fill(2)), lambda o: (set(o.seen), o.counts.tolist())),
    "metric": (metric, lambda o: o["by name"][0](torch.tensor(3.0)), lambda o: o["by name"][0].mean_value.item()),
    "module in a list": (
        lambda: [nn.BatchNorm1d(2)], lambda o: o[0](torch.ones(4, 2)), lambda o: str(o[0].state_dict())
    ),
    "optimizer": (optimizer, stepped, lambda o: (str(o.state_dict()), o.param_groups[0]["params"][0].sum().item())),
    "schedule": (lambda: StepLR(optimizer(), 1), stepped, lambda o: (o.last_epoch, o.optimizer.param_groups[0]["lr"])),
    "random.Random": (lambda: random.Random(0), random.Random.random, random.Random.getstate),
    "numpy generator": (lambda: np.random.default_rng(0), lambda o: o.random(), lambda o: str(o.bit_generator.state)),
    "numpy RandomState": (lambda: np.random.RandomState(0), lambda o: o.rand(), lambda o: str(o.get_state())),
    "torch generator": (torch.Generator, lambda o: torch.rand(1, generator=o), lambda o: o.get_state().tolist()),
    "count": (lambda: [itertools.count()], lambda o: next(o[0]), repr),
    "list iterator": (lambda: {"it": iter([1, 2])}, lambda o: next(o["it"]), lambda o: o["it"].__length_hint__()),
    "gradient scaler": (
        lambda: torch.amp.GradScaler("cpu", init_scale=8.0),
        lambda o: o.update(new_scale=2.0),
        lambda o: str(o.state_dict()),
    ),
}  # fmt: skip


class Holder(nn.Module):
    def __init__(self, held):
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.inner.held = held


@pytest.mark.parametrize("name", HELD)
def test_it_comes_back(name):
    from lightning_dga.alignment.probing.writes import loss_measured

    make, change, seen = HELD[name]
    held = make()
    if name == "gradient scaler":
        held.scale(torch.ones(1))
    module = Holder({"deep": [held]} if name != "helper" else held)
    before = seen(held)
    with isolated(module):
        inside = module.inner.held["deep"][0] if name != "helper" else module.inner.held
        with loss_measured(with_graph=True):
            change(inside)
        if "iterator" not in name and name != "count" and "large" not in name:
            assert repr(seen(inside)) != repr(before), "nothing was changed"
    assert repr(seen(held)) == repr(before)
    assert (module.inner.held["deep"][0] if name != "helper" else module.inner.held) is held


def generator():
    yield from range(5)


@pytest.mark.parametrize("make", [generator, lambda: iter(torch.utils.data.DataLoader([1, 2]))])
def test_an_iterator_that_cannot_be_set_back_says_so_before_it_moves(make):
    held = make()
    module = Holder([held])
    with (
        pytest.raises(StateChangedError, match=r"takes the next item of `Linear.held\[0\]`.*alignment_loss"),
        isolated(module),
    ):
        next(module.inner.held[0])
    assert module.inner.held[0] is held
    assert int(next(held)) == (0 if make is generator else 1)


def test_a_large_array_that_changes_is_named():
    module = Holder({"table": np.zeros((1 << 26) + 8, dtype=np.uint8)})
    with isolated(module):
        pass
    with pytest.raises(StateChangedError, match=r"changed `Linear.held\['table'\]`"), isolated(module):
        module.inner.held["table"][12345] = 1


class Threaded(Meter):
    """Shares its state with its own thread."""

    def __init__(self):
        super().__init__()
        import threading

        self.lock = threading.Lock()


def test_what_lives_with_other_threads_is_left_alone():
    held = Threaded()
    with isolated(Holder(held)):
        held.add()
    assert held.total == 1.5


def test_a_cycle_and_much_nesting_are_no_trouble():
    deep = []
    for _ in range(5000):
        deep = [deep]
    deep.append(deep)
    with isolated(Holder(deep)):
        deep.append(1)
    assert len(deep) == 2
