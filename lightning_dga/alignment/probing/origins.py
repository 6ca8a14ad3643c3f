"""The origin of a probe batch's samples, for the messages of errors raised on it."""

from collections.abc import Iterator, Sequence

import numpy as np

from lightning_dga.alignment.probing.probes import ProbeBatch, Probes

_SHOWN = 3


class NamedProbes:
    """Probes that record which domains their batches are from.

    Args:
        probes: The probes.
        names: Names of the measured domains or mixtures, by domain number.
        target: Name of the target.
    """

    def __init__(
        self, probes: Probes, names: Sequence[str], target: str, origins: dict[int, str] | None = None
    ) -> None:
        self._probes = probes
        self._names = names
        self._target = target
        # by `id`: a batch that is being measured is alive, so its `id` is unique
        self._origins: dict[int, str] = {} if origins is None else origins

    @property
    def batch_size(self) -> int:
        """Maximum number of samples per batch."""
        return self._probes.batch_size

    @property
    def size(self) -> int:
        """See :class:`~lightning_dga.alignment.probing.probes.Probes`."""
        return self._probes.size

    @property
    def samples(self) -> int:
        """Number of samples of all domains, over all ranks."""
        return self._probes.samples

    @property
    def target_samples(self) -> int:
        """Number of samples of the target set, over all ranks."""
        return self._probes.target_samples

    def target(self) -> Iterator[ProbeBatch]:
        """See :class:`~lightning_dga.alignment.probing.probes.Probes`."""
        return self._noted(self._probes.target())

    def by_domain(self, only: Sequence[int] | None = None) -> Iterator[ProbeBatch]:
        """See :class:`~lightning_dga.alignment.probing.probes.Probes`."""
        return self._noted(self._probes.by_domain(only))

    def mixed(
        self, only: Sequence[int] | None = None, most: int | None = None, *, in_turn: bool = False
    ) -> Iterator[ProbeBatch]:
        """See :class:`~lightning_dga.alignment.probing.probes.Probes`."""
        return self._noted(self._probes.mixed(only, most, in_turn=in_turn))

    def whole(self) -> "NamedProbes":
        """See :class:`~lightning_dga.alignment.probing.probes.Probes`."""
        return NamedProbes(self._probes.whole(), self._names, self._target, self._origins)

    def in_batches_of(self, most: int) -> "NamedProbes":
        """See :class:`~lightning_dga.alignment.probing.probes.Probes`."""
        return NamedProbes(self._probes.in_batches_of(most), self._names, self._target, self._origins)

    def origin(self, batch: object) -> str:
        """The origin of a batch's samples; empty if the batch is not from these probes."""
        return self._origins.get(id(batch), "")

    def _noted(self, probes: Iterator[ProbeBatch]) -> Iterator[ProbeBatch]:
        for probe in probes:
            self._origins[id(probe.batch)] = self._of(probe)
            yield probe

    def _of(self, probe: ProbeBatch) -> str:
        numbers = np.unique(probe.domains[probe.domains >= 0])
        if not len(numbers):
            return f"target {self._target!r}"
        shown = ", ".join(repr(self._names[number]) for number in numbers[:_SHOWN])
        more = ", …" if len(numbers) > _SHOWN else ""
        return f"domain{'s' if len(numbers) > 1 else ''} {shown}{more}"


def add_origin(error: Exception, origin: str) -> None:
    """Adds the origin of the failing batch to an error's message; the type of the error stays the same."""
    where = f"in the loss of a probe of {origin}"
    if error.args and isinstance(error.args[0], str) and str(error) == error.args[0]:
        error.args = (f"{error.args[0]} ({where})", *error.args[1:])
    elif hasattr(error, "add_note"):
        error.add_note(where)
