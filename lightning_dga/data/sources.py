"""Sources of the samples of k domains: a data set per domain, or one data set with labels.

A source turns (domain, position) into a sample. Positions count the samples drawn from a domain since the start;
map-style data is visited without replacement in a new keyed order every epoch, a stream in its own order.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, IterableDataset

from lightning_dga.data.errors import DataError
from lightning_dga.data.kinds import check_data_set
from lightning_dga.data.sampling.permutation import keys, permute
from lightning_dga.data.streaming.hub_streams import counts_samples, is_split_by_rank, whole
from lightning_dga.data.streaming.random_numbers import StreamRandomNumbers
from lightning_dga.data.streaming.streams import StreamReader


class Sources(Protocol):
    """The samples of k domains."""

    @property
    def names(self) -> tuple[str, ...]:
        """The domain names, in the order of every ``[k]`` tensor of the package."""
        ...

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Samples in each domain, ``[k]``; 0 for a stream, whose size is not known."""
        ...

    def read(self, domain: int, index: int) -> Any:
        """Sample ``index`` of a map-style domain."""
        ...

    def dataset(self, domain: int) -> Any:
        """The data set that a domain is read from."""
        ...

    def stream(
        self, domain: int, shard: int = 0, num_shards: int = 1, state: dict[str, Any] | None = None
    ) -> StreamReader | None:
        """A new reader of a domain that is a stream, or of one of its shards; ``None`` for a map-style one."""
        ...

    def shards(self, domain: int) -> int:
        """Number of shards into which a domain that is a stream can be split; 1 if it cannot be split."""
        ...

    def shard_sizes(self, domain: int, num_shards: int) -> NDArray[np.float64]:
        """Approximate size of each shard of a stream, in any unit, ``[num_shards]``."""
        ...


class DatasetPerDomain:
    """One data set for each domain, map-style or iterable.

    Args:
        domains: The data sets by domain name.
        argument: The argument that they were given as, for errors.

    Raises:
        ValueError: If there is no domain, or a map-style one is empty.
        TypeError: If a domain is neither a map-style nor an iterable data set.
        DataError: If a domain holds a Hugging Face stream that was split by rank, and the split cannot be undone.
    """

    def __init__(self, domains: Mapping[str, Dataset], argument: str = "domains") -> None:
        if not domains:
            raise ValueError(f"`{argument}` is empty; name at least one {argument.removesuffix('s')}.")
        self.names = tuple(str(name) for name in domains)
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"`{argument}` has two entries with the same name: {sorted(self.names)}. Rename one.")
        self._datasets = [_unsplit(str(name), data) for name, data in domains.items()]
        self.sizes = np.array(
            [_size(f"{argument.removesuffix('s').capitalize()} {n!r}", d) for n, d in domains.items()], dtype=np.int64
        )

    def read(self, domain: int, index: int) -> Any:
        """See :class:`Sources`; an error names the domain."""
        return _read(self._datasets[domain], index, self.names[domain])

    def dataset(self, domain: int) -> Any:
        """See :class:`Sources`."""
        return self._datasets[domain]

    def stream(
        self, domain: int, shard: int = 0, num_shards: int = 1, state: dict[str, Any] | None = None
    ) -> StreamReader | None:
        """See :class:`Sources`."""
        if self.sizes[domain]:
            return None
        return StreamReader(self._shard(domain, shard, num_shards), self.names[domain], state)

    def shards(self, domain: int) -> int:
        """See :class:`Sources`."""
        dataset = self._datasets[domain]
        can_be_split = callable(getattr(dataset, "shard", None)) and not counts_samples(dataset)
        return int(getattr(dataset, "num_shards", 1)) if can_be_split else 1

    def shard_sizes(self, domain: int, num_shards: int) -> NDArray[np.float64]:
        """See :class:`Sources`. The shard's ``size_hint``, or else the number of the stream's own shards in it."""
        if num_shards == 1:
            return np.ones(1)
        shards = [self._shard(domain, shard, num_shards) for shard in range(num_shards)]
        hints = [getattr(shard, "size_hint", None) for shard in shards]
        if any(hint is None for hint in hints):
            hints = [getattr(shard, "num_shards", 1) for shard in shards]
        return np.array(hints, dtype=np.float64)

    def _shard(self, domain: int, shard: int, num_shards: int) -> Any:
        dataset: Any = self._datasets[domain]
        return dataset.shard(num_shards=num_shards, index=shard) if num_shards > 1 else dataset


class NoDomains(DatasetPerDomain):
    """An empty source, for the targets of a mixture without a target."""

    def __init__(self) -> None:
        self.names = ()
        self.sizes = np.zeros(0, dtype=np.int64)


class LabelledDataset:
    """One map-style data set whose samples carry an integer domain label.

    Only labels that occur become domains, named by their number, in increasing order. Memory is one integer per sample
    and three per domain; there is no object per domain, so that many clusters are cheap.

    Args:
        dataset: The samples.
        labels: Domain label of each sample, ``[len(dataset)]`` integers.

    Raises:
        ValueError: If there is not one label for each sample, a label is not an integer, or the data set is empty.
    """

    def __init__(self, dataset: Dataset, labels: Sequence[int] | NDArray[np.int64] | torch.Tensor) -> None:
        array = np.asarray(labels)
        length = _size("`dataset`", dataset)
        if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"`labels` must be one integer per sample, got {array.dtype} of shape {array.shape}.")
        if len(array) != length:
            raise ValueError(
                f"`labels` has {len(array)} entries, `dataset` has {length} samples; give one label for each."
            )
        found, first, sizes = _group(array)
        self.names = tuple(map(str, found.tolist()))
        self.sizes = sizes
        self._dataset = dataset
        self._first = first
        self._order = np.argsort(array, kind="stable")

    def read(self, domain: int, index: int) -> Any:
        """See :class:`Sources`; an error names the domain."""
        return _read(self._dataset, self._order.item(self._first.item(domain) + index), self.names[domain])

    def dataset(self, domain: int) -> Any:
        """See :class:`Sources`."""
        return self._dataset

    def stream(
        self, domain: int, shard: int = 0, num_shards: int = 1, state: dict[str, Any] | None = None
    ) -> StreamReader | None:
        """See :class:`Sources`."""
        return None

    def shards(self, domain: int) -> int:
        """See :class:`Sources`."""
        return 1

    def shard_sizes(self, domain: int, num_shards: int) -> NDArray[np.float64]:
        """See :class:`Sources`."""
        return np.ones(num_shards)


class ShuffledOrder:
    """The order in which the samples of each map-style domain are visited: without replacement, new every epoch.

    Args:
        sizes: Samples in each domain, ``[k]`` int64.
        seed: Seed of the orders.
        purpose: Separates the orders of several readers with the same seed.
        ids: The id that selects each domain's orders, ``[k]`` int64; its index if not given.
    """

    def __init__(
        self, sizes: NDArray[np.int64], seed: int, purpose: int = 0, ids: NDArray[np.int64] | None = None
    ) -> None:
        self._ids = np.arange(len(sizes)) if ids is None else ids
        self._sizes = sizes
        self._seed = seed
        self._purpose = purpose

    def indices(self, domains: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Index of each sample within its domain, ``[n]``; for a stream its position."""
        indices = positions.copy()
        finite = np.flatnonzero(self._sizes[domains])
        domain, size = domains[finite], self._sizes[domains[finite]]
        epoch, within = np.divmod(positions[finite], size)
        indices[finite] = permute(within, size, keys(self._seed, self._purpose, self._ids[domain], epoch))
        return indices


def _unsplit(name: str, data: Any) -> Any:
    if not is_split_by_rank(data):
        return data
    try:
        data = whole(data)
    except TypeError as error:
        raise DataError(
            f"Domain {name!r}: {error} (`split_dataset_by_node`). Give the whole stream: MixtureDataModule shards it "
            "over the ranks itself, and would split each part again."
        ) from error
    warnings.warn(
        f"Domain {name!r} was split by rank (`split_dataset_by_node`). The split is undone, because MixtureDataModule "
        "shards the stream over the ranks itself.",
        stacklevel=4,
    )
    return data


def _group(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    found, sizes = np.unique(labels, return_counts=True)
    return found, np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes.astype(np.int64)


def _size(name: str, data: Dataset) -> int:
    check_data_set(name, data)
    if isinstance(data, IterableDataset) or not hasattr(data, "__getitem__"):
        return 0
    if not hasattr(data, "__len__"):
        raise TypeError(
            f"{name} is a {type(data).__name__} that has `__getitem__` but no `__len__`; define `__len__`, or make it "
            "an IterableDataset."
        )
    length = len(data)
    if length == 0:
        raise ValueError(f"{name} is empty; remove it or give it data.")
    return length


def _read(dataset: Dataset, index: int, domain: str) -> Any:
    try:
        return dataset[index]
    except Exception as error:
        raise DataError(f"Domain {domain!r}, sample {index}: {type(error).__name__}: {error}") from error


def iter_streams(sources: Sources, random_seed: int, purpose: int) -> Iterator[tuple[int, StreamReader]]:
    """A new reader for each domain that is a stream.

    Args:
        sources: The domains.
        random_seed: Seed of the random numbers that streams draw from the global generators.
        purpose: Separates the random numbers of several readers with the same seed.
    """
    for domain in np.flatnonzero(sources.sizes == 0).tolist():
        reader = sources.stream(domain)
        if reader is not None:
            reader.draw_from(StreamRandomNumbers(random_seed, purpose, domain))
            yield domain, reader
