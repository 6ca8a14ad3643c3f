"""Probe batches: the samples that alignments are measured on, of every domain and of the target set.

They are drawn from the same data that trains, so that a domain the model has memorised shows it, in an order of their
own, so that they take nothing from the stream. Sizes are totals over all processes: each process reads its share, and a
measurement costs each the less the more there are.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_dga.data.sources import ShuffledOrder, Sources, iter_streams

_PROBES, _TARGET = 1, 2


@dataclass(frozen=True)
class Probe:
    """Samples of one domain, collated.

    Attributes:
        domain: Index of the domain; -1 for the target set.
        count: Samples in the batch.
        batch: What the user's ``collate_fn`` made of them.
    """

    domain: int
    count: int
    batch: Any


class ProbeReader:
    """Reads the probes of one update; a pure function of the update's number, so that nothing has to be saved.

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
        self._domains = _Reader(domains, ShuffledOrder(domains.sizes, seed, _PROBES))
        self._target = _Reader(target, ShuffledOrder(target.sizes, seed, _TARGET))
        self._collate = collate_fn
        self._most = most

    def target(self, update: int, size: int, rank: int = 0, world_size: int = 1) -> Iterator[Probe]:
        """This process's share of the ``size`` target samples of an update."""
        for probe in self._probes(self._target, update, size, rank, world_size):
            yield Probe(-1, probe.count, probe.batch)

    def domains(self, update: int, size: int, rank: int = 0, world_size: int = 1) -> Iterator[Probe]:
        """This process's share of ``size`` samples of each domain (all of it, where a domain is smaller)."""
        yield from self._probes(self._domains, update, size, rank, world_size)

    def _probes(self, reader: "_Reader", update: int, size: int, rank: int, world_size: int) -> Iterator[Probe]:
        sizes = reader.sizes
        each = np.where(sizes > 0, np.minimum(sizes, size), size)
        stops = np.cumsum(each)
        first, last = (int(stops[-1]) * share // world_size for share in (rank, rank + 1))
        flat = np.arange(first, last)
        domains = np.searchsorted(stops, flat, side="right")
        positions = update * each[domains] + flat - (stops - each)[domains]
        for start, stop in _runs(domains, self._most):
            samples = reader.read(domains[start:stop], positions[start:stop])
            yield Probe(int(domains[start]), stop - start, self._collate(samples))


class _Reader:
    """Samples of sources by domain and position, in an order of their own."""

    def __init__(self, sources: Sources, order: ShuffledOrder) -> None:
        self.sizes = sources.sizes
        self._sources = sources
        self._order = order
        self._streams = dict(iter_streams(sources))

    def read(self, domains: NDArray[np.int64], positions: NDArray[np.int64]) -> list[Any]:
        indices = self._order.indices(domains, positions)
        return [self._one(int(domain), int(index)) for domain, index in zip(domains, indices, strict=True)]

    def _one(self, domain: int, index: int) -> Any:
        if domain not in self._streams:
            return self._sources.read(domain, index)
        stream = self._streams[domain]
        stream.release(index)
        return stream.get(index)


def _runs(domains: NDArray[np.int64], most: int) -> Iterator[tuple[int, int]]:
    """Begin and end of each run of one domain, cut to at most ``most`` samples."""
    bounds = np.concatenate([[0], np.flatnonzero(np.diff(domains)) + 1, [len(domains)]])
    for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        for start in range(begin, end, most):
            yield start, min(start + most, end)
