"""The protocol of probes, the samples that alignments are measured on."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class ProbeBatch(Protocol):
    """Collated samples of domains or of the target set."""

    @property
    def domains(self) -> NDArray[np.int64]:
        """Domain of each sample, ``[n]``; -1 for a sample of the target set, or one that is not counted."""
        ...

    @property
    def indices(self) -> NDArray[np.int64]:
        """Index of each sample within its domain, ``[n]``."""
        ...

    @property
    def batch(self) -> Any:
        """What the loss takes."""
        ...


class Probes(Protocol):
    """The samples of one measurement. Repeated calls of a method return the same samples."""

    @property
    def batch_size(self) -> int:
        """Maximum number of samples per batch."""
        ...

    @property
    def size(self) -> int:
        """Number of samples of each domain, over all ranks; a smaller domain is measured whole."""
        ...

    @property
    def samples(self) -> int:
        """Number of samples of all domains, over all ranks."""
        ...

    @property
    def target_samples(self) -> int:
        """Number of samples of the target set, over all ranks."""
        ...

    def target(self) -> Iterator[ProbeBatch]:
        """This rank's share of the target samples."""
        ...

    def by_domain(self, only: Sequence[int] | None = None) -> Iterator[ProbeBatch]:
        """This rank's share of the samples of all domains, or of those in ``only``, with one domain per batch."""
        ...

    def mixed(
        self, only: Sequence[int] | None = None, most: int | None = None, *, in_turn: bool = False
    ) -> Iterator[ProbeBatch]:
        """The same share in batches of many domains, of at most ``most`` samples, with equally many on every rank.

        The samples of a domain are consecutive; with ``in_turn`` the domains alternate sample by sample.
        """
        ...

    def whole(self) -> "Probes":
        """The same samples, all of them read by this rank."""
        ...

    def in_batches_of(self, most: int) -> "Probes":
        """The same samples in batches of at most ``most``, for use when larger ones do not fit into memory."""
        ...
