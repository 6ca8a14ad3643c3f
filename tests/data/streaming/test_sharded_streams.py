"""Streams that can be split and have a state of their own, like Hugging Face's."""

from functools import cache

import pytest
import torch
from torch.utils.data import IterableDataset

from lightning_dga import MixtureDataModule
from lightning_dga.data import DataError
from lightning_dga.data.streaming import streams
from lightning_dga.data.streaming.streams import StreamReader
from tests.helpers.processes import together
from tests.helpers.toys import OneOf, Points, weights_at

datasets = pytest.importorskip("datasets", reason="Hugging Face data sets are an extra: pip install lightning-dga[hub]")


def hub_stream(domain, size=60, shards=8):
    rows = {"sample": [[domain, index] for index in range(size)]}
    return datasets.Dataset.from_dict(rows).to_iterable_dataset(num_shards=shards)


class Counted(IterableDataset):
    """A stream that can be split and resumed, and counts what is read of it."""

    reads: list = []

    def __init__(self, domain, size, num_shards=8, index=0, of=1):
        self.domain, self.size, self.parts, self.index, self.of = domain, size, num_shards, index, of
        self.begin = self.at = 0

    @property
    def num_shards(self):
        return self.parts // self.of

    def shard(self, num_shards, index):
        return Counted(self.domain, self.size, self.parts, index, num_shards)

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.begin = state["at"]

    def __iter__(self):
        begin, self.begin = self.begin, 0
        own = range(self.index, self.size, self.of)
        for self.at in range(begin, len(own)):
            Counted.reads.append((self.domain, own[self.at]))
            sample = own[self.at]
            self.at += 1
            yield {"sample": [self.domain, sample]}


def collate(samples):
    return [sample["sample"] if isinstance(sample, dict) else sample[2].tolist() for sample in samples]


def processes(make, world_size, workers, size=60):
    for rank in range(world_size):
        domains = {"map": Points(0, 9), "a": make(1, size), "b": make(2, size - 7)}
        module = OneOf(
            domains, Points(0, 3), batch_size=16 // world_size, num_workers=workers, collate_fn=collate,
            batches_per_epoch=9999,
        )  # fmt: skip
        module.share = (rank, world_size)
        yield module


def run(modules, first, last, state=None):
    modules, sequence = list(modules), []
    for module in modules:
        if state is not None:
            module.load_state_dict(state)
    loaders = [iter(module.train_dataloader()) for module in modules]
    for step in range(first, last):
        sequence.append([sample for loader in loaders for sample in next(loader)])
        for module in modules:
            module.set_weights(weights_at(step)[:3])
    states = [module.state_dict() for module in modules]
    for module in modules:
        module.teardown("fit")
    return sequence, states


@cache
def begun(make, world_size, workers, steps):
    """A run from its start, which several tests continue or compare with."""
    return run(processes(make, world_size, workers), 0, steps)


@pytest.mark.parametrize("make", [hub_stream, Counted])
@pytest.mark.parametrize("before", [(1, 0), (2, 2), (4, 0)])
@pytest.mark.parametrize("after", [(1, 0), (2, 0), (4, 2)])
def test_the_sequence_continues_with_other_workers_and_processes(monkeypatch, make, before, after):
    monkeypatch.setattr(streams, "_STATE_EVERY", 3)
    whole, _ = begun(make, 1, 0, 22)
    first, states = begun(make, *before, 15)
    second, _ = run(processes(make, *after), 15, 22, states[0])
    assert first + second == whole
    assert states[0]["streams"]["readers"]


def read_by_one_of_several():
    import torch.distributed as dist

    Counted.reads = []
    (module,) = [m for m in processes(Counted, 4, 0, size=40_000) if m.share[0] == dist.get_rank()]
    loader = iter(module.train_dataloader())
    drawn = [tuple(sample) for _ in range(200) for sample in next(loader) if sample[0]]
    return drawn, Counted.reads


def test_processes_share_a_stream_and_each_reads_little_more_than_its_part():
    drawn, reads = zip(*together(read_by_one_of_several, 4), strict=True)
    every = sum(drawn, [])
    assert len(set(every)) == len(every) > 1500
    # the first batch in full, and what is read ahead for the others to know it: one and a half times the process's part
    # of 16 batches, which is 43 samples of the two streams, and 4 samples of each shard that it reads, of 16 at most
    assert all(len(one) < len(own) + 16 + 1.5 * 43 + 64 + 43 for one, own in zip(reads, drawn, strict=True))


def test_with_one_process_nothing_is_read_in_vain():
    Counted.reads = []
    (sequence, _) = run(processes(Counted, 1, 0, size=4000), 0, 50)
    drawn = [tuple(sample) for batch in sequence for sample in batch if sample[0]]
    assert len(set(drawn)) == len(drawn) > 300
    assert sorted(Counted.reads) == sorted(drawn)


def test_a_resumed_run_reads_on_from_the_streams_own_state():
    (module,) = processes(Counted, 1, 0, size=60_000)
    whole, _ = run([module], 0, 310)
    _, (state,) = run(processes(Counted, 1, 0, size=60_000), 0, 300)
    Counted.reads = []
    again, _ = run(processes(Counted, 1, 0, size=60_000), 300, 310, state)
    assert again == whole[300:]
    # the samples of ten batches, and at most 64 before them of each of 8 shards of two streams
    assert len(Counted.reads) < 160 + 2 * 8 * 64
    assert len(Counted.reads) < 0.4 * 300 * 16


def test_a_shuffle_buffer_which_no_state_holds_stays_exact():
    def make(domain, size):
        return hub_stream(domain, size).shuffle(seed=3, buffer_size=20)

    whole, _ = run(processes(make, 1, 0), 0, 14)
    assert sorted(map(tuple, sum(whole[:3], []))) != list(map(tuple, sum(whole[:3], [])))
    first, (state,) = run(processes(make, 1, 0), 0, 9)
    second, _ = run(processes(make, 1, 0), 9, 14, state)
    assert first + second == whole


def test_each_pass_is_shuffled_anew_where_the_stream_can():
    reader = StreamReader(hub_stream(0, 12, shards=6).shuffle(seed=0, buffer_size=1), "hub")
    samples = [reader.get(i)["sample"][1] for i in range(24)]
    assert sorted(samples[:12]) == sorted(samples[12:]) == list(range(12))
    assert samples[:12] != samples[12:]


def saved_by_the_first_process():
    import torch.distributed as dist

    (module,) = [m for m in processes(Counted, 2, 0, size=60_000) if m.share[0] == dist.get_rank()]
    loader = iter(module.train_dataloader())
    for step in range(200):
        next(loader)
        module.set_weights(weights_at(step)[:3])
    return module.state_dict()


def test_the_first_processs_checkpoint_holds_every_processs_streams():
    state = together(saved_by_the_first_process, 2)[0]
    assert set(state["streams"]["readers"]) == {f"{domain}/{shard}" for domain in (1, 2) for shard in range(8)}
    whole, _ = run(processes(Counted, 1, 0, size=60_000), 0, 205)
    Counted.reads = []
    again, _ = run(processes(Counted, 1, 0, size=60_000), 200, 205, state)
    assert again == whole[200:]
    assert len(Counted.reads) < 0.6 * 200 * 16


def test_the_state_is_read_without_unpickling(tmp_path):
    _, (state,) = run(processes(hub_stream, 1, 0), 0, 150)
    torch.save(state, tmp_path / "state")
    assert torch.load(tmp_path / "state", weights_only=True)["streams"]["readers"]


def test_a_checkpoint_of_a_stream_with_more_shards_is_refused():
    _, (state,) = run(processes(Counted, 1, 0), 0, 2)
    fewer = OneOf({"map": Points(0, 9), "a": Counted(1, 60, 2), "b": Counted(2, 60, 2)}, Points(0, 3), batch_size=16)
    fewer.load_state_dict(state)
    with pytest.raises(ValueError, match="'a' in 8 shards, it has 2 now"):
        fewer.train_dataloader()


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_without_samples_are_passed_over(workers):
    (module,) = processes(lambda domain, size: Counted(domain, size if domain == 1 else 5), 1, workers)
    (sequence, _) = run([module], 0, 20)
    drawn = [sample[1] for batch in sequence for sample in batch if sample[0] == 2]
    assert len(drawn) > 50
    assert all(sorted(drawn[i : i + 5]) == list(range(5)) for i in range(0, len(drawn) - 4, 5))


class Uneven(Counted):
    """Shards of 40, 1, 0, 7, 40, … samples."""

    def shard(self, num_shards, index):
        part = Uneven(self.domain, self.size, self.parts, index, num_shards)
        part.samples = [
            (shard, i) for shard in range(index, self.parts, num_shards) for i in range(self.lengths[shard % 4])
        ]
        return part

    lengths = (40, 1, 0, 7)

    def __iter__(self):
        begin, self.begin = self.begin, 0
        for at, sample in enumerate(self.samples[begin:], start=begin + 1):
            self.at = at
            yield {"sample": [self.domain, sample]}


@pytest.mark.parametrize("before", [(1, 0), (2, 2)])
@pytest.mark.parametrize("after", [(1, 2), (4, 0)])
def test_shards_of_uneven_size_are_each_read_once_in_a_pass_over_interruptions(monkeypatch, before, after):
    monkeypatch.setattr(streams, "_STATE_EVERY", 3)
    whole, _ = run(processes(Uneven, 1, 0), 0, 36)
    for domain in (1, 2):
        drawn = [sample[1] for batch in whole for sample in batch if sample[0] == domain]
        # 8 shards: twice 48 samples
        assert len(drawn) > 96
        assert len(set(drawn[:96])) == 96 and len(set(drawn[96:192])) == len(drawn[96:192])
    first, states = run(processes(Uneven, *before), 0, 15)
    second, _ = run(processes(Uneven, *after), 15, 36, states[0])
    assert first + second == whole


def test_a_hub_stream_that_takes_or_skips_samples_is_not_cut_into_shards_that_take_each_their_part():
    rows = datasets.Dataset.from_dict({"sample": [[1, i] for i in range(41)]}).to_iterable_dataset(num_shards=4)
    # shards of 10 and 11 rows: each would take 9 of its own
    (module,) = processes(lambda domain, size: rows.skip(2).take(36), 1, 0)
    whole, _ = run([module], 0, 20)
    drawn = [sample[1] for batch in whole for sample in batch if sample[0] == 1]
    assert set(drawn) == set(range(2, 38))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_that_fails_names_its_domain_and_stays_failed(workers):
    class Failing(IterableDataset):
        def __iter__(self):
            yield from ([5, i] for i in range(10))
            raise OSError("connection lost")

    data = MixtureDataModule(
        {"wiki": Failing()}, Points(0, 3), batch_size=4, collate_fn=list, num_workers=workers, batches_per_epoch=99
    )
    batches = iter(data.train_dataloader())
    seen = []
    with pytest.raises(DataError, match=r"Domain 'wiki', sample 10: OSError: connection lost"):
        for _ in range(5):
            seen.append(next(batches))
    with pytest.raises(DataError, match="connection lost"):
        next(iter(data.train_dataloader()))
    data.teardown("fit")


def test_a_map_style_hub_data_set_is_a_domain_like_any_other():
    rows = datasets.Dataset.from_dict({"x": list(range(12))}).with_format("torch")
    data = MixtureDataModule({"hub": rows}, Points(0, 3), batch_size=4, num_workers=2)
    batches = iter(data.train_dataloader())
    assert sorted(torch.cat([next(batches)["x"] for _ in range(3)]).tolist()) == list(range(12))
    assert data.domain_sizes.tolist() == [12]
    data.teardown("fit")
