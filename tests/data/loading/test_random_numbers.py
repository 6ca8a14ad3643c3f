"""Random numbers in data sets and collate functions differ for every sample and epoch, and are reproducible."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, default_collate

from lightning_dga import MixtureDataModule
from tests.helpers.toys import OneOf, Points

SHARED = np.random.default_rng(0)


class Augmented(Dataset):
    """Adds a random number to each sample, from generators that users' data sets hold."""

    def __init__(self, kind, size=6):
        self.size = size
        self.rng = {"held numpy": np.random.default_rng(0), "held legacy": np.random.RandomState(0)}.get(kind)
        self.transforms = [lambda: 0.0, random.Random(0)] if kind == "held random" else None
        self.generator = torch.Generator() if kind == "held torch" else None
        self.draw = getattr(self, "_" + kind.replace(" ", "_"))

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return torch.tensor([index, self.draw()], dtype=torch.float64)

    def _torch(self):
        return torch.rand(()).item()

    def _numpy(self):
        return np.random.rand()

    def _random(self):
        return random.random()

    def _held_numpy(self):
        return self.rng.random()

    def _held_legacy(self):
        return self.rng.normal()

    def _held_random(self):
        return self.transforms[1].random()

    def _held_torch(self):
        return torch.rand((), generator=self.generator).item()

    def _module_level(self):
        return SHARED.random()


class Still(Dataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        return torch.tensor([index, 0], dtype=torch.float64)


def masked(samples):
    """Draws in the collate function, as the one of a masked language model does."""
    batch = default_collate(samples)
    return batch + torch.tensor([0, 1]) * torch.rand(len(samples), 1)


KINDS = ["torch", "numpy", "random", "held numpy", "held legacy", "held random", "held torch", "module level"]


def data_of(kind="torch", **arguments):
    settings = {"batch_size": 4, "batches_per_epoch": 99, **arguments}
    return MixtureDataModule({"a": Augmented(kind), "b": Still()}, Points(0, 3), **settings)


def rows(data, count, first=0):
    """Every sample of the next batches, under weights that change on the way."""
    batches, out = iter(data.train_dataloader()), []
    for step in range(first, first + count):
        out += next(batches).tolist()
        data.set_weights([1 + step % 3, 1])
    state = data.state_dict()
    data.teardown("fit")
    return out, state


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_other_ones_for_each_sample_of_each_epoch(kind):
    drawn = [number for _, number in rows(data_of(kind), 20)[0] if number]
    assert len(drawn) > 30
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize("kind", ["numpy", "held numpy"])
def test_they_do_not_depend_on_workers_recalls_and_restarts(kind):
    whole, _ = rows(data_of(kind), 12)
    first, state = rows(data_of(kind, num_workers=2), 5)
    resumed = data_of(kind, num_workers=1)
    resumed.load_state_dict(state)
    assert first + rows(resumed, 7, first=5)[0] == whole


@pytest.mark.parametrize("workers", [0, 2])
def test_those_of_the_collate_function_are_of_the_batch(workers):
    whole, _ = rows(data_of("torch", collate_fn=masked), 6)
    assert rows(data_of("torch", collate_fn=masked, num_workers=workers), 6)[0] == whole
    assert len({number for _, number in whole}) == len(whole)


def test_ranks_draw_the_numbers_of_one_process():
    whole, _ = rows(data_of(), 6)

    def of_rank(rank):
        data = OneOf({"a": Augmented("torch"), "b": Still()}, Points(0, 3), batch_size=2, batches_per_epoch=99)
        data.share = (rank, 2)
        found = rows(data, 6)[0]
        return [found[i : i + 2] for i in range(0, 12, 2)]

    assert sum((first + second for first, second in zip(of_rank(0), of_rank(1), strict=True)), []) == whole


def test_they_follow_the_seed_of_the_data_module_and_the_global_one(monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    plain = rows(data_of(), 4)[0]
    other = rows(data_of(seed=1), 4)[0]
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")  # as `seed_everything(7)` does
    seeded = rows(data_of(), 4)[0]
    numbers = [{number for _, number in found if number} for found in (plain, other, seeded)]
    assert not numbers[0] & numbers[1] and not numbers[0] & numbers[2]
    assert [index for index, _ in plain] == [index for index, _ in seeded]


@pytest.mark.parametrize("kind", [*KINDS, "collate", "probes"])
def test_the_main_process_keeps_its_generators_as_they_were(kind):
    data = data_of("torch" if kind in ("collate", "probes") else kind, collate_fn=masked if kind == "collate" else None)
    np.random.randn()  # leaves the second number of a pair in store
    kept = SHARED.bit_generator.state
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    if kind == "probes":
        list(data.probes(0, 3).by_domain())
    else:
        rows(data, 3)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()
    assert torch.equal(before[0], after[0]) and before[1] == after[1]
    assert all(np.array_equal(one, two) for one, two in zip(before[2], after[2], strict=True))
    assert SHARED.bit_generator.state == kept


def test_probes_of_one_update_are_the_same_when_read_again():
    def probe(update):
        return next(iter(data_of().probes(update, 3).by_domain([0]))).batch

    assert torch.equal(probe(0), probe(0))
    assert not torch.equal(probe(0)[:, 1], probe(1)[:, 1])


def test_a_data_set_that_draws_nothing_is_read_once():
    class Counted(Still):
        reads = 0

        def __getitem__(self, index):
            Counted.reads += 1
            return super().__getitem__(index)

    data = MixtureDataModule({"a": Counted(), "b": Counted()}, Points(0, 3), batch_size=4, batches_per_epoch=9)
    rows(data, 5)
    assert Counted.reads == 20


class DrawsLater(Dataset):
    """Draws from torch's generator for each sample, and from `random` for one of them alone."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return torch.tensor([index, torch.rand(()).item(), random.random() if index == 7 else 0], dtype=torch.float64)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_generator_that_is_drawn_from_late_is_seeded_too(workers):
    def read(num_workers):
        random.seed(num_workers)
        data = MixtureDataModule({"a": DrawsLater()}, Points(0, 3), batch_size=4, num_workers=num_workers)
        found = [row for batch in data.train_dataloader() for row in batch.tolist()]
        data.teardown("fit")
        return found

    assert read(workers) == read(1)


def test_only_generators_that_are_drawn_from_are_seeded(monkeypatch):
    seeded = []
    monkeypatch.setattr(random, "seed", lambda *_: seeded.append("random"))
    monkeypatch.setattr(np.random, "seed", lambda *_: seeded.append("numpy"))
    rows(data_of("torch"), 5)
    assert not seeded
    rows(data_of("numpy"), 5)
    assert set(seeded) == {"numpy"}
