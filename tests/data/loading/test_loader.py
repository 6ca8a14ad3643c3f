import time

import pytest
import torch

from lightning_dga import MixtureDataModule
from tests.helpers.toys import Points, Stream, mixture


def drawn(batches, count):
    """Which samples the next batches hold, and under which weights."""
    return [next(batches)[2].tolist() for _ in range(count)]


@pytest.mark.parametrize("num_workers", [1, 3])
def test_the_sequence_does_not_depend_on_the_workers(num_workers):
    def run(workers):
        data = mixture(num_workers=workers)
        batches, out = iter(data.train_dataloader()), []
        for weights in ([1, 1, 1], [8, 1, 1], [0, 0, 1]):
            data.set_weights(weights)
            out += drawn(batches, 5)
        data.teardown("fit")
        return out, data.samples_seen.tolist()

    assert run(num_workers) == run(0)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_new_weights_govern_the_next_batch(num_workers):
    data = mixture(num_workers=num_workers)
    batches = iter(data.train_dataloader())
    drawn(batches, 3)
    time.sleep(0.2 if num_workers else 0)  # the workers' queues are full of old work now
    data.set_weights({"domain0": 0, "domain1": 1, "domain2": 0})
    domains = {domain for batch in drawn(batches, 8) for domain, _ in batch}
    assert domains == {1}
    assert data.current_batch.version == 1
    data.teardown("fit")


def test_workers_do_not_read_what_was_recalled():
    class Slow(Points):
        reads = torch.zeros(1).share_memory_()

        def __getitem__(self, index):
            time.sleep(0.05)
            self.reads += 1
            return super().__getitem__(index)

    data = MixtureDataModule(
        {"a": Slow(0, 90), "b": Slow(1, 90)}, Points(0, 3), batch_size=1, num_workers=1, prefetch_factor=20
    )
    batches = iter(data.train_dataloader())
    drawn(batches, 1)
    data.set_weights([1, 0])
    drawn(batches, 1)
    # the two that were used, and those that the worker had begun; not the twenty that were queued
    assert Slow.reads.item() < 10
    data.teardown("fit")


class Counted(Points):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.reads = torch.zeros((), dtype=torch.int64).share_memory_()

    def __getitem__(self, index):
        self.reads += 1
        return super().__getitem__(index)


def settled(domain):
    """Samples read, once a worker has read whatever it was sent before."""
    seen = [-1]
    while len(seen) < 10 or len(set(seen[-10:])) > 1:
        time.sleep(0.1)
        seen.append(domain.reads.item())
    return seen[-1]


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_weights_that_are_set_at_equal_intervals_cost_no_reads(max_staleness):
    domain = Counted(0, 90)
    data = MixtureDataModule(
        {"a": domain}, Points(0, 3), batch_size=2, num_workers=1, prefetch_factor=4, max_staleness=max_staleness
    )
    batches = iter(data.train_dataloader())
    for _ in range(2):
        drawn(batches, 5)
        data.set_weights([1])
    before = settled(domain)
    for _ in range(4):
        drawn(batches, 5)
        time.sleep(0.1)  # the worker reads whatever it was sent
        data.set_weights([1])
    # what the first intervals recalled was skipped or had been read; of the last four nothing was read in vain
    assert domain.reads.item() - before <= 2 * 20
    data.teardown("fit")


@pytest.mark.parametrize("intervals", [(3, 3, 3, 3, 7, 2), (1, 1, 1, 5, 5, 2), (4, 4, 11)])
def test_weights_that_are_not_set_when_expected_change_nothing(intervals):
    def run(workers):
        data = mixture(num_workers=workers, batches_per_epoch=99)
        batches, out = iter(data.train_dataloader()), []
        for number, interval in enumerate(intervals):
            out += drawn(batches, interval)
            data.set_weights([1 + number % 3, 1, 2])
        out += drawn(batches, 9)
        data.teardown("fit")
        return out

    assert run(2) == run(0)


def test_staleness_is_what_was_asked_for():
    data = mixture(num_workers=2, max_staleness=3)
    batches = iter(data.train_dataloader())
    drawn(batches, 2)
    data.set_weights([0, 1, 0])
    versions, staleness = [], []
    for _ in range(6):
        next(batches)
        versions.append(data.current_batch.version)
        staleness.append(data.staleness)
    data.set_weights([1, 1, 1])
    assert data.staleness == 0
    data.teardown("fit")
    assert versions == [0, 0, 0, 1, 1, 1]
    assert staleness == [1, 2, 3, 3, 3, 3]


def test_a_resumed_run_knows_its_staleness():
    data, again = mixture(max_staleness=3), mixture(max_staleness=3)
    batches = iter(data.train_dataloader())
    drawn(batches, 2)
    data.set_weights([0, 1, 0])
    drawn(batches, 2)
    again.load_state_dict(data.state_dict())
    assert again.staleness == data.staleness == 2


def test_sizes_of_domains_are_told_where_they_are_known():
    data = MixtureDataModule({"map": Points(0, 9), "stream": Stream(1, 9)}, Points(0, 3), batch_size=2)
    assert data.domain_sizes.tolist() == [9, 0]


def test_weights_may_change_faster_than_queued_work_arrives():
    def run(workers):
        data = mixture(num_workers=workers, max_staleness=2)
        batches, out = iter(data.train_dataloader()), []
        for step in range(30):
            out += drawn(batches, 1)
            data.set_weights([1 + step % 3, 1, 2])
        data.teardown("fit")
        return out

    assert run(2) == run(0)


def test_the_batch_knows_where_its_samples_came_from():
    data = mixture()
    batches = iter(data.train_dataloader())
    for number in range(4):
        batch = next(batches)
        assert batch[2][:, 0].tolist() == data.current_batch.domains.tolist()
        assert data.current_batch.start == 4 * number


def test_epochs_cut_one_endless_stream():
    data, whole = mixture(batches_per_epoch=5), mixture(batches_per_epoch=15)
    loader = data.train_dataloader()
    parts = [drawn(iter(loader), 5) for _ in range(3)]
    assert sum(parts, []) == drawn(iter(whole.train_dataloader()), 15)


def test_an_epoch_holds_every_sample_once_unless_told():
    assert len(mixture(k=2, size=40, batch_size=4).train_dataloader()) == 21  # 40 + 41 samples


def test_making_an_iterator_reads_nothing():
    data = mixture()
    loader = data.train_dataloader()
    iter(loader)
    iter(loader)
    assert data.samples_seen.sum() == 0


@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers_take_nothing_from_the_users_random_numbers(num_workers):
    data = mixture(num_workers=num_workers)
    before = torch.get_rng_state()
    drawn(iter(data.train_dataloader()), 3)
    data.teardown("fit")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("make", [Points, Stream])
@pytest.mark.parametrize(("workers", "workers_after"), [(0, 0), (2, 2), (2, 0), (0, 2)])
def test_a_state_taken_while_workers_prefetch_loses_and_repeats_nothing(make, workers, workers_after):
    def data(num_workers):
        domains = {f"domain{i}": make(i, 9 + i) for i in range(3)}
        return MixtureDataModule(domains, Points(0, 3), batch_size=4, num_workers=num_workers, batches_per_epoch=50)

    def weights(step):
        return [1 + step % 4, 1, 2]

    def run(datamodule, first, last):
        batches, out = iter(datamodule.train_dataloader()), []
        for step in range(first, last):
            out += drawn(batches, 1)
            datamodule.set_weights(weights(step))
        state = datamodule.state_dict()
        datamodule.teardown("fit")
        return out, state

    whole, _ = run(data(0), 0, 17)
    before, state = run(data(workers), 0, 6)
    resumed = data(workers_after)
    resumed.load_state_dict(state)
    after, _ = run(resumed, 6, 17)
    assert before + after == whole


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_state_put_into_a_running_loader_restarts_it_there(num_workers):
    data = MixtureDataModule(
        {"a": Points(0, 9), "b": Stream(1, 9)}, Points(0, 3), batch_size=4, num_workers=num_workers
    )
    batches = iter(data.train_dataloader())
    drawn(batches, 2)
    state = data.state_dict()
    expected = drawn(batches, 4)
    data.load_state_dict(state)
    assert drawn(batches, 4) == expected
    data.teardown("fit")


def test_ranks_slice_the_same_batches():
    from lightning_dga.core.weights import as_weights
    from lightning_dga.data import DatasetPerDomain, MixtureLoader
    from lightning_dga.data.sampling.composition import Composition

    sources = DatasetPerDomain({"a": Points(0, 9), "b": Points(1, 5)})

    def loader(batch_size, rank, world_size):
        composition = Composition(as_weights([1, 2], sources.names))
        return MixtureLoader(
            composition, sources, batch_size=batch_size, batches_per_epoch=9, collate_fn=lambda samples: samples,
            rank=rank, world_size=world_size,
        )  # fmt: skip

    def numbers(batches):
        return [[sample[2].tolist() for sample in batch] for batch in batches]

    whole = numbers(loader(8, 0, 1))
    halves = [numbers(loader(4, rank, 2)) for rank in range(2)]
    assert [first + second for first, second in zip(*halves, strict=True)] == whole


def test_a_worker_that_dies_is_an_error_and_not_a_hang():
    class Deadly(Points):
        def __getitem__(self, index):
            import os

            os._exit(1)

    data = MixtureDataModule({"a": Deadly(0, 9)}, Points(0, 3), batch_size=4, num_workers=1)
    with pytest.raises(RuntimeError, match="exited unexpectedly"):
        next(iter(data.train_dataloader()))
    data.teardown("fit")
