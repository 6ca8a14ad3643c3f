"""What a user would pick instead of our stream: each peer's composition alone, and its loader with two workers.

Every one mixes samples that are made up: 128 token ids that all are the domain's number.
"""

import itertools
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler, default_collate

from lightning_dga import MixtureDataModule
from lightning_dga.data import Composition

LENGTH, BATCH, WORKERS = 128, 32, 2
# what composes ahead draws this many at a time, a batch over all processes of a middling run
DRAW = 512
# a peer with an object for each domain is given up where these take longer to make
MOST_SECONDS = 60.0


class TooSlow(RuntimeError):
    """A peer that cannot be made for so many domains in reasonable time."""


class Rows(Dataset):
    """Samples whose token ids are their domain's number."""

    def __init__(self, k: int, per_domain: int = 2) -> None:
        self.k, self.per_domain = k, per_domain

    def __len__(self) -> int:
        return self.k * self.per_domain

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((LENGTH,), index // self.per_domain)


@dataclass(frozen=True)
class Peer:
    """A way to mix domains.

    Attributes:
        name: What it is called in a table.
        library: What has to be installed.
        composition: From weights to an endless iterator, each item of which stands for ``size`` samples.
        loader: From weights to an endless iterator of batches.
        size: Samples for each item of the composition.
        abilities: What it can do, and how that is known.
    """

    name: str
    library: str
    composition: Callable[[np.ndarray], Iterator[Any]]
    loader: Callable[[np.ndarray], Iterator[Any]]
    size: int = 1
    abilities: dict[str, str] = field(default_factory=dict)

    @property
    def installed(self) -> bool:
        try:
            __import__(self.library)
        except ImportError:
            return False
        return True


def weights_of(k: int) -> np.ndarray:
    """Very different weights, ``[k]``."""
    weights = np.exp(np.random.default_rng(0).normal(size=k))
    return weights / weights.sum()


def endless(make: Callable[[], Any]) -> Iterator[Any]:
    while True:
        yield from make()


def our_composition(sampling: str) -> Callable[[np.ndarray], Iterator[Any]]:
    def draws(weights: np.ndarray) -> Iterator[Any]:
        composition = Composition(torch.from_numpy(weights), sampling=sampling)
        while True:
            draw = composition.draw(DRAW)
            composition.deliver(draw)
            yield draw

    return draws


def our_module(k: int, weights: np.ndarray | None = None, **arguments: Any) -> MixtureDataModule:
    settings = {"batch_size": BATCH, "num_workers": WORKERS, "batches_per_epoch": 10**9, **arguments}
    return MixtureDataModule.from_labels(Rows(k), np.arange(k).repeat(2), Rows(1), weights=weights, **settings)


def our_loader(sampling: str) -> Callable[[np.ndarray], Iterator[Any]]:
    return lambda weights: iter(our_module(len(weights), weights, sampling=sampling).train_dataloader())


def torch_composition(weights: np.ndarray) -> Iterator[Any]:
    return endless(lambda: WeightedRandomSampler(weights, num_samples=100_000))


def torch_loader(weights: np.ndarray) -> Iterator[Any]:
    sampler = WeightedRandomSampler(weights.repeat(2) / 2, num_samples=1_000_000)
    return endless(lambda: DataLoader(Rows(len(weights)), BATCH, sampler=sampler, num_workers=WORKERS))


def hub_composition(weights: np.ndarray) -> Iterator[Any]:
    from datasets.iterable_dataset import RandomlyCyclingMultiSourcesExamplesIterable

    # what its interleaving follows; there is no public name for it
    mixed = RandomlyCyclingMultiSourcesExamplesIterable(
        [None] * len(weights), np.random.default_rng(0), weights.tolist()
    )
    return iter(mixed._get_indices_iterator())


def _hub_rows(domains: list[int]) -> Iterator[dict[str, Any]]:
    # more than a run takes: starting a stream again costs more than its samples
    for domain in domains:
        for _ in range(1_000_000):
            yield {"tokens": np.full(LENGTH, domain)}


def hub_loader(weights: np.ndarray) -> Iterator[Any]:
    import datasets

    features = datasets.Features({"tokens": datasets.Sequence(datasets.Value("int64"), LENGTH)})

    def one(domain: int) -> Any:
        # a part for each worker, without which one of them would have nothing to do
        return datasets.IterableDataset.from_generator(
            _hub_rows, features=features, gen_kwargs={"domains": [domain] * WORKERS}
        )

    mixed = datasets.interleave_datasets(
        objects(one, len(weights)), probabilities=weights.tolist(), seed=0, stopping_strategy="all_exhausted"
    )
    return endless(lambda: DataLoader(mixed.with_format("torch"), BATCH, num_workers=WORKERS))


def nodes(weights: np.ndarray, source: Callable[[int], Any]) -> Any:
    from torchdata.nodes import IterableWrapper, MultiNodeWeightedSampler, StopCriteria

    sources = objects(lambda domain: IterableWrapper(source(domain)), len(weights))
    return MultiNodeWeightedSampler(
        {str(domain): node for domain, node in enumerate(sources)},
        {str(domain): float(weight) for domain, weight in enumerate(weights)},
        StopCriteria.CYCLE_FOREVER,
    )


def torchdata_composition(weights: np.ndarray) -> Iterator[Any]:
    sampler = nodes(weights, itertools.repeat)
    sampler.reset()
    return iter(sampler)


def _collated(domains: list[int]) -> torch.Tensor:
    rows = Rows(k=2**62)
    return default_collate([rows[2 * domain] for domain in domains])


def torchdata_loader(weights: np.ndarray) -> Iterator[Any]:
    from torchdata.nodes import Batcher, Loader, ParallelMapper

    batches = Batcher(nodes(weights, itertools.repeat), BATCH)
    return iter(Loader(ParallelMapper(batches, _collated, num_workers=WORKERS, method="process")))


def litdata_composition(weights: np.ndarray) -> Iterator[Any]:
    from litdata.streaming.combined import _CombinedDatasetIterator

    sources = [itertools.repeat(0)] * len(weights)
    return _CombinedDatasetIterator(sources, 0, weights.tolist(), False, None, BATCH, "stratified")


def litdata_loader(weights: np.ndarray) -> Iterator[Any]:
    from litdata import CombinedStreamingDataset, StreamingDataLoader, StreamingDataset
    from litdata.streaming.cache import Cache

    folder = Path(tempfile.mkdtemp(prefix="litdata-"))
    # as many samples as a run of the benchmark takes: it ends with the first data set that ends
    cache = Cache(str(folder / "0"), chunk_size=5000)
    for index in range(5000):
        cache[index] = {"tokens": torch.full((LENGTH,), 0)}
    cache.done()
    cache.merge()

    def one(domain: int) -> Any:
        if domain:
            shutil.copytree(folder / "0", folder / str(domain))
        return StreamingDataset(str(folder / str(domain)))

    mixed = CombinedStreamingDataset(
        objects(one, len(weights)), weights=weights.tolist(), iterate_over_all=False, seed=0
    )
    return endless(lambda: StreamingDataLoader(mixed, batch_size=BATCH, num_workers=WORKERS))


def objects(make: Callable[[int], Any], k: int) -> list[Any]:
    """An object for each domain, unless that would take too long."""
    import time

    made, started = [], time.perf_counter()
    for domain in range(k):
        made.append(make(domain))
        if domain in (100, 1000, 10_000) and (taken := time.perf_counter() - started) * k / (domain + 1) > MOST_SECONDS:
            raise TooSlow(
                f"an object for each domain: {math.ceil(taken * k / (domain + 1) / 60)} minutes to make {k:,} of them"
            )
    return made


ABILITIES = ("new weights while workers run", "resumes exactly", "… with other workers or processes", "weight 0")
PEERS = [
    Peer(
        "lightning-dga, multinomial",
        "lightning_dga",
        our_composition("multinomial"),
        our_loader("multinomial"),
        DRAW,
        dict.fromkeys(ABILITIES, "yes"),
    ),
    Peer(
        "lightning-dga, quota",
        "lightning_dga",
        our_composition("quota"),
        our_loader("quota"),
        DRAW,
        dict.fromkeys(ABILITIES, "yes"),
    ),
    Peer(
        "WeightedRandomSampler",
        "torch",
        torch_composition,
        torch_loader,
        abilities=dict(zip(ABILITIES, ("no: draws an epoch at once", "no: no state", "no", "yes"), strict=True)),
    ),
    Peer(
        "HF interleave_datasets",
        "datasets",
        hub_composition,
        hub_loader,
        abilities=dict(
            zip(
                ABILITIES,
                (
                    "no: probabilities are fixed",
                    "yes, but for its shuffle buffer",
                    "no: state of each worker",
                    "no: may wait for ever",
                ),
                strict=True,
            )
        ),
    ),
    Peer(
        "torchdata MultiNodeWeightedSampler",
        "torchdata",
        torchdata_composition,
        torchdata_loader,
        abilities=dict(
            zip(
                ABILITIES,
                ("no: weights are read at reset", "yes", "workers yes, processes no", "no: refused"),
                strict=True,
            )
        ),
    ),
    Peer(
        "litdata CombinedStreamingDataset",
        "litdata",
        litdata_composition,
        litdata_loader,
        abilities=dict(
            zip(
                ABILITIES,
                ("no: each worker holds a copy", "yes, replaying every draw", "no", "yes"),
                strict=True,
            )
        ),
    ),
]
