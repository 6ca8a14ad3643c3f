"""Streams with a state of their own, which is used if the stream resumes from it at the right sample."""

import threading

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset

from lightning_dga import MixtureDataModule
from lightning_dga.data import DataError
from lightning_dga.data.streaming import streams
from tests.helpers.toys import Points

datasets = pytest.importorskip("datasets", reason="Hugging Face data sets are an extra: pip install lightning-dga[hub]")


def module(stream, **arguments):
    return MixtureDataModule({"wiki": stream}, Points(0, 3), batch_size=4, collate_fn=list, **arguments)


def interrupted_and_whole(make, at, stop, tmp_path):
    whole = iter(module(make()).train_dataloader())
    whole = [next(whole) for _ in range(stop)]
    first, second = module(make()), module(make())
    batches = iter(first.train_dataloader())
    found = [next(batches) for _ in range(at)]
    torch.save(first.state_dict(), tmp_path / "state")
    second.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    batches = iter(second.train_dataloader())
    return found + [next(batches) for _ in range(stop - at)], whole


class Numbers(IterableDataset):
    """A stream that counts; its subclasses report their position in other ways."""

    def __init__(self, size=50):
        self.size, self.begin, self.at = size, 0, 0

    def __iter__(self):
        begin, self.begin = self.begin, 0
        for number in range(begin, self.size):
            self.at = number + 1
            yield number

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.begin = int(state["at"])


class WithArguments(Numbers):
    def state_dict(self, num_samples, from_beginning):
        raise AssertionError


class Raising(Numbers):
    def state_dict(self):
        raise RuntimeError("not now")


class OfNumpy(Numbers):
    def state_dict(self):
        return {"at": np.int64(self.at)}


class OfAnObject(Numbers):
    def state_dict(self):
        return {"at": self.at, "of": threading.Thread}


class WithLock(Numbers):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class OneDict(Numbers):
    """Gives the same dictionary each time, and changes it."""

    def state_dict(self):
        self.__dict__.setdefault("state", {})["at"] = self.at
        return self.state


# that a state is not used is told, which other tests look for
@pytest.mark.filterwarnings("ignore:Domain 'wiki'")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("make", [Numbers, WithArguments, Raising, OfNumpy, OfAnObject, WithLock, OneDict])
def test_a_stream_resumes_exactly_whatever_its_state_is(monkeypatch, tmp_path, make, workers):
    monkeypatch.setattr(streams, "_STATE_EVERY", 3)
    if workers:
        data = module(make(), num_workers=workers)
        batches = iter(data.train_dataloader())
        found = [next(batches) for _ in range(20)]
        data.teardown("fit")
        assert sum(found, []) == [i % 50 for i in range(80)]
    found, whole = interrupted_and_whole(make, 9, 20, tmp_path)
    assert found == whole


@pytest.mark.parametrize(
    ("make", "reason"), [(Raising, "RuntimeError: not now"), (OfNumpy, "Unpickling"), (OfAnObject, "Unpickling")]
)
def test_a_state_that_no_checkpoint_can_hold_is_told_once_with_the_domain(monkeypatch, make, reason):
    monkeypatch.setattr(streams, "_STATE_EVERY", 3)
    data = module(make())
    batches = iter(data.train_dataloader())
    with pytest.warns(UserWarning, match=f"'wiki', .* of a {make.__name__}: .*{reason}") as told:
        for _ in range(9):
            next(batches)
    assert len([one for one in told if "cannot be saved in a checkpoint" in str(one.message)]) == 1
    assert data.state_dict()["streams"]["readers"] == {}


class ItsOwnIterator(IterableDataset):
    """An iterator that starts anew with each ``iter``, as litdata's stream is."""

    def __iter__(self):
        self.at = 0
        return self

    def __next__(self):
        if self.at == 10:
            raise StopIteration
        self.at += 1
        return self.at - 1


class ItsOwnWithLock(ItsOwnIterator):
    def __init__(self):
        self.lock = threading.Lock()


def test_training_and_probes_do_not_share_the_place_of_a_stream_that_keeps_it():
    data = module(ItsOwnIterator())
    batches, found = iter(data.train_dataloader()), []
    for step in range(6):
        found += next(batches)
        list(data.probes(step, 3).by_domain())
    assert found == [i % 10 for i in range(24)]


def test_one_that_keeps_its_place_and_cannot_be_copied_is_refused_at_the_start():
    with pytest.raises(DataError, match=r"'wiki': the ItsOwnWithLock cannot be copied .*`__iter__`"):
        next(iter(module(ItsOwnWithLock()).train_dataloader()))


class Refusing(Numbers):
    def load_state_dict(self, state):
        raise KeyError("at")


def test_a_stream_that_does_not_take_its_state_names_the_domain(monkeypatch):
    monkeypatch.setattr(streams, "_STATE_EVERY", 3)
    first, second = module(Refusing()), module(Refusing())
    batches = iter(first.train_dataloader())
    for _ in range(9):
        next(batches)
    second.load_state_dict(first.state_dict())
    with pytest.raises(DataError, match="'wiki': the stream does not accept the state in the checkpoint"):
        next(iter(second.train_dataloader()))


def rows(first, seed=None):
    stream = datasets.Dataset.from_dict({"i": list(range(first, first + 40))}).to_iterable_dataset(num_shards=2)
    return stream if seed is None else stream.shuffle(seed=seed, buffer_size=9)


def interleaved(*parts):
    return datasets.interleave_datasets(list(parts), probabilities=[1 / len(parts)] * len(parts), seed=3)


class Around(Numbers):
    """A stream of the user's own around another."""

    def __init__(self, inner):
        self.inner = inner

    def __iter__(self):
        yield from self.inner

    def state_dict(self):
        return self.inner.state_dict()

    def load_state_dict(self, state):
        self.inner.load_state_dict(state)


CHAINS = {
    "interleaved": lambda: interleaved(rows(0, 1), rows(100, 2)),
    "concatenated": lambda: datasets.concatenate_datasets([rows(0), rows(100, 2)]),
    "filtered, batched": lambda: rows(0, 1).filter(lambda row: row["i"] % 3 > 0).batch(2),
    "repeated": lambda: rows(0, 1).repeat(2).map(dict),
    "taken": lambda: rows(0, 1).skip(3).take(30),
    "deep": lambda: interleaved(datasets.concatenate_datasets([rows(0), rows(100, 1).map(dict)]), rows(200)).map(dict),
    "in the user's own": lambda: Around(interleaved(rows(0, 1), rows(100))),
    "no buffer": lambda: interleaved(rows(0).map(dict), rows(100)).filter(lambda row: row["i"] % 3 > 0),
}


# that a state is not used is told, which other tests look for
@pytest.mark.filterwarnings("ignore:Domain 'wiki'")
@pytest.mark.parametrize("chain", CHAINS)
def test_hub_streams_resume_exactly_wherever_in_them_a_shuffle_buffer_is(monkeypatch, tmp_path, chain):
    monkeypatch.setattr(streams, "_STATE_EVERY", 3)
    found, whole = interrupted_and_whole(CHAINS[chain], 6, 14, tmp_path)
    assert found == whole


def test_a_hub_stream_whose_state_leads_elsewhere_is_told(monkeypatch):
    monkeypatch.setattr(streams, "_STATE_EVERY", 3)
    monkeypatch.setattr(datasets.IterableDataset, "state_dict", lambda self: {"examples_iterable": None, "epoch": 7})
    batches = iter(module(rows(0)).train_dataloader())
    with pytest.warns(UserWarning, match="'wiki', state_dict.. of a IterableDataset: the state leads to other samples"):
        for _ in range(6):
            next(batches)
