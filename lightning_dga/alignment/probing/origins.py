"""Where the samples of a probe batch are from, for the message of what fails on it."""

from collections.abc import Iterator, Sequence

import numpy as np

from lightning_dga.alignment.probing.probes import ProbeBatch, Probes

_SHOWN = 3


class NamedProbes:
    """Probes that remember which domains their batches are of.

    Args:
        probes: The probes.
        names: Names of what is measured, in the order of the batches' numbers.
        target: Name of the target.
    """

    def __init__(
        self, probes: Probes, names: Sequence[str], target: str, origins: dict[int, str] | None = None
    ) -> None:
        self._probes = probes
        self._names = names
        self._target = target
        # by identity: a batch that is being measured is alive, so its number is no other's
        self._origins: dict[int, str] = {} if origins is None else origins

    @property
    def batch_size(self) -> int:
        """Samples in one batch at most."""
        return self._probes.batch_size

    @property
    def samples(self) -> int:
        """Samples of all domains, over all processes."""
        return self._probes.samples

    @property
    def target_samples(self) -> int:
        """Samples of the target set, over all processes."""
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
        """Where the samples of a batch are from; empty where it is none of these probes'."""
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
    """Says in an error's message where the batch that it was raised for is from; its type stays."""
    where = f"in the loss of a probe of {origin}"
    if error.args and isinstance(error.args[0], str) and str(error) == error.args[0]:
        error.args = (f"{error.args[0]} ({where})", *error.args[1:])
    elif hasattr(error, "add_note"):
        error.add_note(where)
