"""Probe batches: the samples that alignments are measured on, of every domain and of the target set.

They are drawn from the same data that trains, so that a domain the model has memorised shows it, in an order of their
own, so that they take nothing from the stream. Sizes are totals over all processes: each process reads its share, and a
measurement costs each the less the more there are.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_dga.data.sources import ShuffledOrder, Sources, iter_streams

_PROBES, _TARGET = 1, 2


@dataclass(frozen=True, eq=False)
class Probe:
    """Samples that alignments are measured on, collated.

    Attributes:
        domains: Domain of each sample, ``[n]`` int64; -1 for a sample of the target set, and for one that only fills a
            batch up and is not to be counted.
        indices: Index of each sample within its domain, ``[n]`` int64.
        batch: What the user's ``collate_fn`` made of them.
    """

    domains: NDArray[np.int64]
    indices: NDArray[np.int64]
    batch: Any


class ProbeReader:
    """Reads the probes of an update; a pure function of the update's number, so that nothing has to be saved.

    Args:
        domains: The training domains.
        target: The target set, as a source of one domain.
        collate_fn: Turns a list of samples into a batch.
        seed: Selects the samples.
        most: Samples in one batch at most, so that a probe needs no more memory than a training step.
    """

    def __init__(
        self, domains: Sources, target: Sources, collate_fn: Callable[[list[Any]], Any], *, seed: int, most: int
    ) -> None:
        self.domains = _Reader(domains, ShuffledOrder(domains.sizes, seed, _PROBES))
        self.target = _Reader(target, ShuffledOrder(target.sizes, seed, _TARGET))
        self.collate = collate_fn
        self.most = most


@dataclass(frozen=True)
class Probes:
    """The probes of one update, as one process reads them.

    Args:
        reader: Reads them.
        update: Number of the update.
        size: Samples of each domain over all processes (all of a domain, where it is smaller).
        target_size: Samples of the target set over all processes.
        rank: Which share is this process's.
        world_size: How many processes share them.
    """

    reader: ProbeReader
    update: int
    size: int
    target_size: int
    rank: int = 0
    world_size: int = 1

    def target(self) -> Iterator[Probe]:
        """This process's share of the target samples."""
        for probe in self._by_domain(self.reader.target, self.target_size, None):
            yield replace(probe, domains=np.full_like(probe.domains, -1))

    def by_domain(self, only: Sequence[int] | None = None) -> Iterator[Probe]:
        """This process's share of the domains' samples, in batches of one domain each.

        Args:
            only: The domains to read; all if not given.
        """
        return self._by_domain(self.reader.domains, self.size, only)

    def mixed(self, only: Sequence[int] | None = None, most: int | None = None) -> Iterator[Probe]:
        """This process's share of the domains' samples, in batches of many domains, as many on every process.

        Where the samples do not divide evenly, the last processes repeat one that is marked as not to be counted.

        Args:
            only: The domains to read; all if not given.
            most: Samples in one batch at most; if not given, or more than the reader's, the reader's.
        """
        size = min(most or self.reader.most, self.reader.most)
        reader = self.reader.domains
        domains, positions = _flat(reader.sizes, self.size, self.update, only)
        share = -(-len(domains) // self.world_size)
        own = np.arange(self.rank * share, (self.rank + 1) * share)
        counted, own = own < len(domains), np.minimum(own, len(domains) - 1)
        for start in range(0, share, size):
            part = own[start : start + size]
            probe = self._probe(reader, domains[part], positions[part], self.update * self.size)
            yield replace(probe, domains=np.where(counted[start : start + len(part)], probe.domains, -1))

    def whole(self) -> "Probes":
        """The same probes, all of them read by this process."""
        return replace(self, rank=0, world_size=1)

    def _by_domain(self, reader: "_Reader", size: int, only: Sequence[int] | None) -> Iterator[Probe]:
        domains, positions = _flat(reader.sizes, size, self.update, only)
        first, last = (len(domains) * share // self.world_size for share in (self.rank, self.rank + 1))
        domains, positions = domains[first:last], positions[first:last]
        for start, stop in _runs(domains, self.reader.most):
            yield self._probe(reader, domains[start:stop], positions[start:stop], self.update * size)

    def _probe(self, reader: "_Reader", domains: NDArray[np.int64], positions: NDArray[np.int64], first: int) -> Probe:
        indices, samples = reader.read(domains, positions, first)
        return Probe(domains, indices, self.reader.collate(samples))


class _Reader:
    """Samples of sources by domain and position, in an order of their own."""

    def __init__(self, sources: Sources, order: ShuffledOrder) -> None:
        self.sizes = sources.sizes
        self._sources = sources
        self._order = order
        self._streams = dict(iter_streams(sources))

    def read(
        self, domains: NDArray[np.int64], positions: NDArray[np.int64], first: int
    ) -> tuple[NDArray[np.int64], list[Any]]:
        """Indices and samples; of a stream, what lies before position ``first`` will not be asked for again."""
        indices = self._order.indices(domains, positions)
        for domain in set(domains.tolist()) & self._streams.keys():
            self._streams[domain].release(first)
        return indices, [self._one(int(domain), int(index)) for domain, index in zip(domains, indices, strict=True)]

    def _one(self, domain: int, index: int) -> Any:
        stream = self._streams.get(domain)
        return self._sources.read(domain, index) if stream is None else stream.get(index)


def _flat(
    sizes: NDArray[np.int64], size: int, update: int, only: Sequence[int] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Domain and position of all samples of an update, domain after domain."""
    each = np.where(sizes > 0, np.minimum(sizes, size), size)
    domains = np.repeat(np.arange(len(sizes)), each)
    positions = update * each[domains] + np.arange(len(domains)) - (np.cumsum(each) - each)[domains]
    if only is None:
        return domains, positions
    wanted = np.isin(domains, np.asarray(only, dtype=np.int64))
    return domains[wanted], positions[wanted]


def _runs(domains: NDArray[np.int64], most: int) -> Iterator[tuple[int, int]]:
    """Begin and end of each run of one domain, cut to at most ``most`` samples."""
    bounds = np.concatenate([[0], np.flatnonzero(np.diff(domains)) + 1, [len(domains)]])
    for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        for start in range(begin, end, most):
            yield start, min(start + most, end)
