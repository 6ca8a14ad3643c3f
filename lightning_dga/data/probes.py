"""Probe batches: the samples that alignments are measured on, of every domain and of the target set.

They are drawn from the training data, so that memorisation of a domain is visible in its alignment, but in an order of
their own, so that the training stream is not affected. Sizes are totals over all ranks: each rank reads its share, and
the cost per rank falls with the world size.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lightning_dga.data.loading.batches import BatchReader
from lightning_dga.data.sources import ShuffledOrder, Sources, iter_streams
from lightning_dga.data.streaming.random_numbers import training_numbers_kept

_PROBES, _TARGET, _MIXTURES = 1, 2, 3


@dataclass(frozen=True, eq=False)
class Probe:
    """A collated batch of samples that alignments are measured on.

    Attributes:
        domains: Domain of each sample (or mixture of domains, if mixtures are probed), ``[n]`` int64; -1 for a sample
            of a target set, and for padding, which is not counted.
        indices: Index of each sample within its domain, ``[n]`` int64.
        batch: The result of the user's ``collate_fn``.
    """

    domains: NDArray[np.int64]
    indices: NDArray[np.int64]
    batch: Any


@dataclass(frozen=True, eq=False)
class Choice:
    """Samples chosen for an update.

    Attributes:
        labels: The domain or mixture that each sample is measured for, ``[n]`` int64, in increasing order.
        domains: Domain of each sample, ``[n]`` int64.
        positions: Position of each sample in its domain, ``[n]`` int64.
        first: Positions before this one will not be requested again.
    """

    labels: NDArray[np.int64]
    domains: NDArray[np.int64]
    positions: NDArray[np.int64]
    first: int

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.labels)

    def __getitem__(self, which: Any) -> "Choice":
        """Some of them."""
        return Choice(self.labels[which], self.domains[which], self.positions[which], self.first)

    def of(self, only: Sequence[int] | None) -> "Choice":
        """The samples with some labels; all samples if not given."""
        return self if only is None else self[np.isin(self.labels, np.asarray(only, dtype=np.int64))]


class Pool(Protocol):
    """Samples to probe."""

    def chosen(self, update: int, size: int) -> Choice:
        """The samples of an update, ``size`` per label (or the whole domain, if it is smaller)."""
        ...

    def read(self, choice: Choice) -> tuple[NDArray[np.int64], Any]:
        """Index of each sample within its domain, and the collated batch."""
        ...


class DomainPool:
    """Samples of domains, each in an order of its own.

    Args:
        sources: The domains.
        order: The order.
        reader: Reads and collates them.
        random_seed: Seed of the random numbers that streams draw.
        purpose: Separates the random numbers of several pools with the same seed.
    """

    def __init__(
        self, sources: Sources, order: ShuffledOrder, reader: BatchReader, random_seed: int, purpose: int
    ) -> None:
        self.sizes = sources.sizes
        self._order = order
        self._reader = reader
        self._streams = dict(iter_streams(sources, random_seed, purpose))

    def chosen(self, update: int, size: int) -> Choice:
        """See :class:`Pool`."""
        each = np.where(self.sizes > 0, np.minimum(self.sizes, size), size)
        domains = np.repeat(np.arange(len(each)), each)
        positions = update * each[domains] + np.arange(len(domains)) - (np.cumsum(each) - each)[domains]
        return Choice(domains, domains, positions, update * size)

    def read(self, choice: Choice) -> tuple[NDArray[np.int64], Any]:
        """See :class:`Pool`."""
        indices = self._order.indices(choice.domains, choice.positions)
        for domain in set(choice.domains.tolist()) & self._streams.keys():
            self._streams[domain].release(choice.first)
        pairs = enumerate(zip(choice.domains.tolist(), indices.tolist(), strict=True))
        with training_numbers_kept(reader.random_numbers for reader in self._streams.values()):
            streamed = {
                place: self._streams[domain].get(index) for place, (domain, index) in pairs if domain in self._streams
            }
        first = int(choice.positions[0]) * len(self.sizes) + int(choice.domains[0])
        return indices, self._reader.read(choice.domains, indices, choice.positions, first, streamed)


class MixedPool:
    """Samples drawn from mixtures of domains, with replacement.

    Args:
        domains: The domains, all of them map-style.
        mixtures: Weights of the domains in each mixture, ``[N, k]`` float64, rows on the simplex.
        seed: Selects the samples.

    Raises:
        ValueError: If a domain that has a weight is a stream.
    """

    def __init__(self, domains: DomainPool, mixtures: NDArray[np.float64], seed: int) -> None:
        if (domains.sizes[(mixtures > 0).any(0)] == 0).any():
            raise ValueError("Mixtures of domains can be probed only where each domain is a map-style data set.")
        self._pool = domains
        self._mixtures = mixtures
        self._seed = seed

    def chosen(self, update: int, size: int) -> Choice:
        """See :class:`Pool`."""
        # one generator per update, so that an update's samples do not depend on earlier updates
        random = np.random.Generator(np.random.Philox(key=[self._seed & 0xFFFFFFFFFFFFFFFF, _MIXTURES]).jumped(update))
        cumulative = self._mixtures.cumsum(1)
        drawn = random.random((len(cumulative), size)) * np.nextafter(cumulative[:, -1:], 0)
        rows = zip(cumulative, drawn, strict=True)
        domains = np.concatenate([np.searchsorted(row, points, side="right") for row, points in rows])
        labels = np.repeat(np.arange(len(cumulative)), size)
        return Choice(labels, domains, random.integers(self._pool.sizes[domains]), 0)

    def read(self, choice: Choice) -> tuple[NDArray[np.int64], Any]:
        """See :class:`Pool`."""
        return self._pool.read(choice)


class ProbeReader:
    """Reads the probes of an update; they depend only on the update's number, so no state has to be saved.

    Args:
        domains: The training domains.
        targets: The target sets, each as a domain.
        collate_fn: Turns a list of samples into a batch.
        seed: Seed of the choice of samples.
        most: Maximum number of samples per batch, so that a probe batch is no larger than a training batch.
        random_seed: Seed of the random numbers that data sets and ``collate_fn`` draw; ``seed`` if not given.
    """

    def __init__(
        self,
        domains: Sources,
        targets: Sources,
        collate_fn: Callable[[list[Any]], Any],
        *,
        seed: int,
        most: int,
        random_seed: int | None = None,
    ) -> None:
        random_seed = seed if random_seed is None else random_seed

        def pool(sources: Sources, purpose: int) -> DomainPool:
            reader = BatchReader(sources, collate_fn, random_seed, purpose)
            return DomainPool(sources, ShuffledOrder(sources.sizes, seed, purpose), reader, random_seed, purpose)

        self.domains = pool(domains, _PROBES)
        self.targets = pool(targets, _TARGET)
        self.most = most


@dataclass(frozen=True)
class Probes:
    """The probes of one update, as one rank reads them.

    Args:
        reader: Reads the target, and collates.
        pool: The pool of samples of domains, or of mixtures of them.
        update: Number of the update.
        size: Samples of each domain over all ranks (or the whole domain, if it is smaller).
        target_number: Index of the target.
        target_size: Samples of the target set over all ranks.
        rank: The rank, which selects the share.
        world_size: The number of ranks that share the probes.
        most: Maximum number of samples per batch, if lower than the reader's.
    """

    reader: ProbeReader
    pool: Pool
    update: int
    size: int
    target_number: int
    target_size: int
    rank: int = 0
    world_size: int = 1
    most: int | None = None

    @property
    def batch_size(self) -> int:
        """Maximum number of samples per batch."""
        return min(self.most or self.reader.most, self.reader.most)

    @property
    def samples(self) -> int:
        """Number of samples of all domains, over all ranks."""
        return len(self.pool.chosen(self.update, self.size))

    @property
    def target_samples(self) -> int:
        """Number of samples of the target set, over all ranks."""
        return len(self._of_target())

    def target(self) -> Iterator[Probe]:
        """This rank's share of the target samples."""
        for probe in self._by_label(self.reader.targets, self._of_target()):
            yield replace(probe, domains=np.full_like(probe.domains, -1))

    def by_domain(self, only: Sequence[int] | None = None) -> Iterator[Probe]:
        """This rank's share of the domains' samples, in batches of one domain each.

        Args:
            only: The domains to read; all if not given.
        """
        return self._by_label(self.pool, self.pool.chosen(self.update, self.size).of(only))

    def mixed(
        self, only: Sequence[int] | None = None, most: int | None = None, *, in_turn: bool = False
    ) -> Iterator[Probe]:
        """This rank's share of the domains' samples, in batches of many domains, with equally many on every rank.

        If the samples do not divide evenly, the last ranks repeat a sample that is marked as not counted.

        Args:
            only: The domains to read; all if not given.
            most: Maximum number of samples per batch; at most, and by default, :attr:`batch_size`.
            in_turn: Alternates the domains sample by sample, so that each batch is of many domains.
        """
        size = min(most or self.batch_size, self.batch_size)
        choice = self.pool.chosen(self.update, self.size).of(only)
        if in_turn:
            turns = np.arange(len(choice)) - np.searchsorted(choice.labels, choice.labels)
            choice = choice[np.argsort(turns, kind="stable")]
        share = -(-len(choice) // self.world_size)
        own = np.arange(self.rank * share, (self.rank + 1) * share)
        counted, own = own < len(choice), np.minimum(own, len(choice) - 1)
        for start in range(0, share, size):
            probe = self._probe(self.pool, choice[own[start : start + size]])
            yield replace(probe, domains=np.where(counted[start : start + len(probe.domains)], probe.domains, -1))

    def whole(self) -> "Probes":
        """The same probes, all of them read by this rank."""
        return replace(self, rank=0, world_size=1)

    def in_batches_of(self, most: int) -> "Probes":
        """The same probes, in batches of ``most`` samples at most."""
        return replace(self, most=most)

    def _of_target(self) -> Choice:
        return self.reader.targets.chosen(self.update, self.target_size).of([self.target_number])

    def _by_label(self, pool: Pool, choice: Choice) -> Iterator[Probe]:
        first, last = (len(choice) * share // self.world_size for share in (self.rank, self.rank + 1))
        choice = choice[first:last]
        for start, stop in _runs(choice.labels, self.batch_size):
            yield self._probe(pool, choice[start:stop])

    def _probe(self, pool: Pool, choice: Choice) -> Probe:
        indices, batch = pool.read(choice)
        return Probe(choice.labels, indices, batch)


def _runs(labels: NDArray[np.int64], most: int) -> Iterator[tuple[int, int]]:
    """Start and end of each run of equal labels, split into runs of at most ``most`` samples."""
    bounds = np.concatenate([[0], np.flatnonzero(np.diff(labels)) + 1, [len(labels)]])
    for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        for start in range(begin, end, most):
            yield start, min(start + most, end)
