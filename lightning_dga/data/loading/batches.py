"""Reading a batch, with random numbers that depend only on the seed and on the samples in it."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from lightning_dga.data.loading.generators import (
    GLOBAL,
    Fingerprint,
    generators_of,
    global_state,
    seed_global,
    seed_held,
    set_global_state,
    set_states_held,
    states_held,
)
from lightning_dga.data.sampling.permutation import keys
from lightning_dga.data.sources import Sources

_COLLATING = -1


def random_seed(seed: int) -> int:
    """The seed for random numbers drawn by data sets: the stream's seed, with that of ``seed_everything`` if set."""
    given = os.environ.get("PL_GLOBAL_SEED")
    return int(keys(seed, int(given))[0]) if given else seed


class BatchReader:
    """Reads samples and collates them.

    Random numbers drawn by a data set's ``__getitem__`` (an augmentation) or by ``collate_fn`` (the masks of a masked
    language model) differ for every sample of every epoch and for every batch, and are the same for the same sample of
    the same epoch: in whichever process it is read, and also if it is read again after a change of weights or in a
    resumed run. This holds for torch's CPU generator, NumPy's global generator and ``random``, and for generators that
    a data set holds. In the main process the state of all of them is restored afterwards.

    Seeding takes about as long as reading a sample. So a global generator is not seeded until a batch is found to have
    drawn from it; that batch is read again with seeding of this one too, and so are all later ones.

    Args:
        sources: The samples.
        collate_fn: Turns a list of samples into a batch.
        seed: Seed of the random numbers.
        purpose: Separates the random numbers of several readers with the same seed.
    """

    def __init__(self, sources: Sources, collate_fn: Callable[[list[Any]], Any], seed: int, purpose: int = 0) -> None:
        self._sources = sources
        self._collate = collate_fn
        self._seed = seed
        self._purpose = purpose
        self._drawn: list[str] = []
        self._held: dict[int, list[Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        # generators are found again in a copy, whose data sets hold their own
        return self.__dict__ | {"_held": {}}

    def read(
        self,
        domains: NDArray[np.int64],
        indices: NDArray[np.int64],
        positions: NDArray[np.int64],
        batch: int,
        given: Mapping[int, Any] | None = None,
    ) -> Any:
        """Reads one batch.

        Args:
            domains: Domain of each sample, ``[n]``.
            indices: Index of each sample within its domain, ``[n]``.
            positions: Number of samples of the same domain drawn before each sample, ``[n]``.
            batch: A unique number of the batch.
            given: Samples that were read already, by position in the batch.

        Returns:
            The batch that ``collate_fn`` returned.
        """
        places = list(enumerate(zip(domains.tolist(), indices.tolist(), strict=True)))
        given = given or {}
        holds = [self._generators(domain) for domain in {*domains.tolist(), _COLLATING}]

        def made() -> Any:
            samples = []
            seeds = keys(self._seed, self._purpose, domains, positions).tolist() if seeded else []
            for place, (domain, index) in places:
                if seeded:
                    self._seed_all(seeds[place], domain)
                samples.append(given[place] if place in given else self._sources.read(domain, index))
            if seeded:
                self._seed_all(int(keys(self._seed, self._purpose, _COLLATING, batch)[0]), _COLLATING)
            return self._collate(samples)

        with self._left_as_they_were(holds):
            while True:
                seeded = bool(self._drawn) or any(holds)
                unseeded = Fingerprint(kind for kind in GLOBAL if kind not in self._drawn)
                result = made()
                changed = unseeded.changed()
                if not changed:
                    return result
                self._drawn += changed

    def _generators(self, domain: int) -> list[Any]:
        if domain not in self._held:
            if domain == _COLLATING:
                self._held[domain] = generators_of(self._collate)
            else:
                # streams are not read here
                self._held[domain] = generators_of(self._sources.dataset(domain)) if self._sources.sizes[domain] else []
        return self._held[domain]

    def _seed_all(self, key: int, domain: int) -> None:
        seed_global(key, self._drawn)
        seed_held(self._held[domain], key)

    @contextmanager
    def _left_as_they_were(self, holds: list[list[Any]]) -> Iterator[None]:
        if get_worker_info() is not None:
            yield
            return
        state, states = global_state(), [states_held(held) for held in holds]
        try:
            yield
        finally:
            if self._drawn:
                set_global_state(state)
            for held, of_held in zip(holds, states, strict=True):
                set_states_held(held, of_held)
