"""What alignments are measured on, as every estimator asks for it."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class ProbeBatch(Protocol):
    """Collated samples of domains or of the target set."""

    @property
    def domains(self) -> NDArray[np.int64]:
        """Domain of each sample, ``[n]``; -1 for one of the target set, and for one that is not to be counted."""
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
    """The samples of one measurement. Each method may be called again, and gives the same samples again."""

    @property
    def batch_size(self) -> int:
        """Samples in one batch at most."""
        ...

    @property
    def samples(self) -> int:
        """Samples of all domains, over all processes."""
        ...

    @property
    def target_samples(self) -> int:
        """Samples of the target set, over all processes."""
        ...

    def target(self) -> Iterator[ProbeBatch]:
        """This process's share of the target samples."""
        ...

    def by_domain(self, only: Sequence[int] | None = None) -> Iterator[ProbeBatch]:
        """This process's share of the domains' samples (of ``only`` these, if given), one domain in each batch."""
        ...

    def mixed(
        self, only: Sequence[int] | None = None, most: int | None = None, *, in_turn: bool = False
    ) -> Iterator[ProbeBatch]:
        """The same share in batches of many domains (of ``most`` samples at most), as many on every process.

        The samples of a domain follow one another; ``in_turn`` takes one of each domain before another of the first.
        """
        ...

    def whole(self) -> "Probes":
        """The same samples, all of them read by this process."""
        ...

    def in_batches_of(self, most: int) -> "Probes":
        """The same samples, in batches of ``most`` at most, as when larger ones do not fit into memory."""
        ...
