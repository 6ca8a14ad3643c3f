"""Random numbers in streams differ for every sample and epoch, and are the same on resume and on any rank."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset

from lightning_dga.data.streaming import random_numbers
from tests.data.test_elastic import OneOf
from tests.helpers.toys import Points

# functions of their own: a copy of a data set would copy NumPy's generator with its bound method
DRAWS = {"torch": lambda: torch.rand(()).item(), "numpy": lambda: np.random.randn(), "random": lambda: random.random()}


class Noisy(IterableDataset):
    """Adds a random number to each sample; it can be split, and draws at the start of an epoch too."""

    def __init__(self, draw, size=20, num_shards=4, index=0, of=1):
        self.draw, self.size, self.num_shards, self.index, self.of = draw, size, num_shards // of, index, of

    def shard(self, num_shards, index):
        return type(self)(self.draw, self.size, self.num_shards, index, num_shards)

    def __iter__(self):
        self.draw()
        return self.samples(0)

    def samples(self, first):
        for i in range(self.index + self.of * first, self.size, self.of):
            yield torch.tensor([i, self.draw()], dtype=torch.float64)


class Resumable(Noisy):
    """The same in one shard, with a state of its own."""

    first = at = 0

    def __init__(self, draw, size):
        super().__init__(draw, size, num_shards=1)

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.first = state["at"]

    def __iter__(self):
        first, self.first = self.first, 0
        for at, sample in enumerate(self.samples(first), start=first + 1):
            self.at = at
            yield sample


def quiet():
    return 0.0


def data_of(draw, make=Noisy, size=20, share=(0, 1), **arguments):
    domains = {"noisy": make(draw, size), "quiet": make(quiet, size)}
    batch_size = 8 // share[1]
    data = OneOf(domains, Points(0, 3), batch_size=batch_size, batches_per_epoch=999, collate_fn=list, **arguments)
    data.share = share
    return data


def rows(data, first, last):
    """The samples of batches, some of which are drawn again under new weights; and the state after them."""
    batches, found = iter(data.train_dataloader()), []
    for step in range(first, last):
        found.append([sample.tolist() for sample in next(batches)])
        data.set_weights([1 + step % 3, 1])
    state = data.state_dict()
    data.teardown("fit")
    return found, state


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("kind", "make"), [("torch", Noisy), ("numpy", Resumable), ("random", Resumable)])
def test_a_run_resumes_with_the_numbers_that_it_would_have_drawn(kind, make, workers):
    whole, _ = rows(data_of(DRAWS[kind], make, 99), 0, 24)
    first, state = rows(data_of(DRAWS[kind], make, 99, num_workers=workers), 0, 18)
    assert bool(state["streams"]["readers"]) == (make is Resumable)
    resumed = data_of(DRAWS[kind], make, 99, num_workers=2 - workers)
    resumed.load_state_dict(state)
    torch.rand(3), np.random.rand(), random.random()  # what else the process draws does not matter
    assert first + rows(resumed, 18, 24)[0] == whole


def test_ranks_draw_the_numbers_of_one_process():
    whole, _ = rows(data_of(DRAWS["random"]), 0, 20)
    ranks = [rows(data_of(DRAWS["random"], share=(rank, 2)), 0, 20)[0] for rank in range(2)]
    assert [first + second for first, second in zip(*ranks, strict=True)] == whole


def test_each_sample_of_each_epoch_has_its_own_and_they_follow_the_seed():
    def numbers(seed):
        return [
            number for batch in rows(data_of(DRAWS["random"], seed=seed), 0, 20)[0] for _, number in batch if number
        ]

    assert len(numbers(0)) > 3 * 20
    assert len({*numbers(0), *numbers(1)}) == len(numbers(0)) + len(numbers(1))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("kind", "make"), [("torch", Noisy), ("numpy", Resumable), ("random", Noisy)])
def test_training_keeps_its_generators_as_they_were(kind, make, workers):
    np.random.randn()  # leaves the second number of a pair in store
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    data = data_of(DRAWS[kind], make, num_workers=workers)
    list(data.probes(0, 3).by_domain())
    rows(data, 0, 20)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()
    assert torch.equal(before[0], after[0]) and before[1] == after[1]
    assert all(np.array_equal(one, two) for one, two in zip(before[2], after[2], strict=True))


def test_probes_of_an_update_are_the_same_when_read_again():
    def probe(update):
        return torch.stack(next(iter(data_of(DRAWS["random"]).probes(update, 3).by_domain([0]))).batch).tolist()

    trained = rows(data_of(DRAWS["random"]), 0, 1)[0][0]
    assert probe(1) == probe(1)
    assert not {number for _, number in probe(0)} & {number for _, number in probe(1) + trained}


def test_a_stream_that_draws_nothing_is_soon_read_without_seeding(monkeypatch):
    seeded = []
    monkeypatch.setattr(random_numbers, "seed_global", seeded.append)
    data = data_of(quiet, size=10_000)
    rows(data, 0, 99)
    # the first samples of both streams, and the start of an epoch of each of their shards
    assert len(seeded) == 2 * (256 + 4)
