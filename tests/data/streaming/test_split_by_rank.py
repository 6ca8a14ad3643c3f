"""Streams that are already split by rank are read in full, or refused by all ranks."""

import random
from collections import Counter

import pytest
import torch.distributed as dist
from torch.utils.data import IterableDataset

from lightning_dga.data import DataError
from lightning_dga.data.text import PackedStream, train_tokenizer
from tests.helpers.processes import together
from tests.helpers.toys import OneOf, Points

datasets = pytest.importorskip("datasets", reason="Hugging Face data sets are an extra: pip install lightning-dga[hub]")


class ByRank(IterableDataset):
    """Reads every second sample, like a stream that was written for other loaders."""

    def __iter__(self):
        yield from range(dist.get_rank(), 60, dist.get_world_size())


class ShuffledByRank(IterableDataset):
    def __iter__(self):
        yield from random.Random(dist.get_rank()).sample(range(60), 60)


class Augmented(IterableDataset):
    """The same samples on every rank, with noise."""

    def __iter__(self):
        yield from (i + 1e-3 * random.random() for i in range(60))


def by_hub():
    from datasets.distributed import split_dataset_by_node

    stream = datasets.Dataset.from_dict({"i": list(range(60))}).to_iterable_dataset(num_shards=4)
    return split_dataset_by_node(stream, dist.get_rank(), 2)


def drawn(make):
    random.seed(dist.get_rank())
    data = OneOf({"wiki": make()}, Points(0, 3), batch_size=5, collate_fn=list)
    data.share = (dist.get_rank(), 2)
    batches = iter(data.train_dataloader())
    try:
        samples = [sample for _ in range(6) for sample in next(batches)]
    except DataError as error:
        return str(error)
    return [sample["i"] if isinstance(sample, dict) else round(sample) for sample in samples]


@pytest.mark.parametrize("make", [ByRank, ShuffledByRank])
def test_a_stream_that_reads_the_rank_is_refused_by_every_process(make):
    for found in together(drawn, 2, make):
        assert "Domain 'wiki'" in found and "already split or shuffled by rank" in found


def test_random_augmentation_is_not_taken_for_a_split():
    assert Counter(sum(together(drawn, 2, Augmented), [])) == Counter(range(60))


# the warning is raised in other processes, where this test cannot look for it
@pytest.mark.filterwarnings("ignore:Domain 'wiki' was split by rank")
def test_a_hub_stream_that_was_split_is_read_in_full():
    assert Counter(sum(together(drawn, 2, by_hub), [])) == Counter(range(60))


def test_a_split_within_packed_documents_is_found_and_told():
    from datasets.distributed import split_dataset_by_node

    rows = datasets.Dataset.from_dict({"text": [f"{i} words" for i in range(20)]}).to_iterable_dataset(num_shards=2)
    tokenizer = train_tokenizer(["words"], 300)
    packed = PackedStream(split_dataset_by_node(rows, 1, 2), tokenizer, 4)
    with pytest.warns(UserWarning, match="'wiki' was split by rank"):
        data = OneOf({"wiki": packed}, Points(0, 3), batch_size=5, collate_fn=list)
    assert data._sources.shards(0) == 2

    class Wrapped(IterableDataset):
        def __init__(self, stream):
            self.stream = stream

        def __iter__(self):
            yield from self.stream

    with pytest.raises(DataError, match="'wiki': a Wrapped holds a stream that was split by rank"):
        OneOf({"wiki": Wrapped(split_dataset_by_node(rows, 1, 2))}, Points(0, 3), batch_size=5)
