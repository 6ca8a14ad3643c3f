import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from lightning_dga import MixtureDataModule
from lightning_dga.data import DataError, DatasetPerDomain, LabelledDataset, ShuffledOrder
from lightning_dga.data.streaming.streams import StreamReader
from tests.helpers.toys import Points, Stream


class Letters(IterableDataset):
    def __init__(self, letters):
        self.letters = letters
        self.epochs = []

    def set_epoch(self, epoch):
        self.epochs.append(epoch)

    def __iter__(self):
        return iter(self.letters)


def test_every_epoch_of_a_domain_visits_each_sample_once_in_a_new_order():
    order = ShuffledOrder(np.array([5, 7]), seed=0)
    epochs = [tuple(order.indices(np.full(7, 1), np.arange(7) + 7 * epoch)) for epoch in range(5)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(epochs)) == 5


def test_labels_become_domains_without_an_object_each():
    labels = torch.tensor([3, 0, 3, 9, 0, 3])
    source = LabelledDataset(TensorDataset(torch.arange(6)), labels)
    assert source.names == ("0", "3", "9")
    assert source.sizes.tolist() == [2, 3, 1]
    assert [source.read(1, i)[0].item() for i in range(3)] == [0, 2, 5]
    assert source.read(2, 0)[0].item() == 3


def test_a_quarter_of_a_million_labels():
    k = 262_144
    labels = np.arange(k).repeat(2)
    data = MixtureDataModule.from_labels(TensorDataset(torch.arange(2 * k)), labels, Points(0, 4), batch_size=64)
    assert len(data.domain_names) == k
    batch = next(iter(data.train_dataloader()))[0]
    assert labels[batch.numpy()].tolist() == data.current_batch.domains.tolist()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1], "2 entries, `dataset` has 3"),
        ([0.0, 1.0, 1.0], "one integer per sample"),
        ([[0], [1], [2]], "one integer"),
    ],
)
def test_labels_that_do_not_fit_are_named(labels, message):
    with pytest.raises(ValueError, match=message):
        LabelledDataset(TensorDataset(torch.arange(3)), labels)


def test_an_empty_domain_is_named():
    with pytest.raises(ValueError, match="'code' is empty"):
        DatasetPerDomain({"wiki": Points(0, 3), "code": TensorDataset(torch.empty(0))})


def test_no_domain_at_all_is_an_error():
    with pytest.raises(ValueError, match="`domains` is empty"):
        DatasetPerDomain({})


def test_two_domains_of_one_name_are_an_error():
    with pytest.raises(ValueError, match="the same name"):
        DatasetPerDomain({1: Points(0, 3), "1": Points(1, 3)})


def test_what_is_no_data_set_is_named():
    with pytest.raises(TypeError, match="'wiki' is a int"):
        DatasetPerDomain({"wiki": 3})


class Broken(Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        raise OSError("disk on fire")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_sample_that_cannot_be_read_names_its_domain(num_workers):
    data = MixtureDataModule({"wiki": Broken()}, Points(0, 3), batch_size=2, num_workers=num_workers)
    with pytest.raises(DataError, match=r"Domain 'wiki', sample \d: OSError: disk on fire"):
        next(iter(data.train_dataloader()))


def test_a_stream_starts_again_when_it_ends():
    letters = Letters("abc")
    reader = StreamReader(letters, "letters")
    assert [reader.get(i) for i in range(7)] == list("abcabca")
    assert letters.epochs == [0, 1, 2]


def test_a_stream_gives_a_sample_again_until_it_is_released():
    reader = StreamReader(Letters("abcdef"), "letters")
    assert reader.get(4) == "e"
    assert reader.get(2) == "c"
    reader.release(3)
    assert reader.get(3) == "d"
    with pytest.raises(ValueError, match="released"):
        reader.get(2)


def test_an_empty_stream_is_an_error_and_not_a_hang():
    with pytest.raises(DataError, match="'letters' is an iterable that gives no samples"):
        StreamReader(Letters(""), "letters").get(0)


def test_an_iterator_is_refused_because_it_cannot_start_again():
    with pytest.raises(DataError, match="read only once"):
        StreamReader(iter("abc"), "letters").get(0)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_streams_mix_with_map_style_domains(num_workers):
    data = MixtureDataModule(
        {"map": Points(0, 10), "stream": Stream(1, 10)}, Points(0, 3), batch_size=4, num_workers=num_workers
    )
    loader = data.train_dataloader()
    assert len(loader) == 1000
    batches = iter(loader)
    seen = torch.cat([next(batches)[2] for _ in range(20)])
    data.teardown("fit")
    streamed = seen[seen[:, 0] == 1, 1].tolist()
    assert streamed == [i % 10 for i in range(len(streamed))]
    assert len(streamed) > 20
