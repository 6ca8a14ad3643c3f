"""What a rule declares about itself, so that the engine need not check for classes of rules."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Traits:
    """What a rule needs and does; these are the defaults for a rule that declares no ``traits``.

    Attributes:
        moves: Whether the weights change after the first update. If not, a resumed run uses the weights that the data
            module is given now, and not those of the checkpoint.
        losses_only: Whether the rule uses only the domains' losses, and needs neither alignments nor a target.
        limits_repetition: Whether the rule itself limits the repetition of domains.
        lag: Number of updates by which the weights follow the measurements; 0 if they follow at once.
    """

    moves: bool = True
    losses_only: bool = False
    limits_repetition: bool = False
    lag: float = 0.0


@dataclass(frozen=True)
class Distributions:
    """Distributions over the domains whose alignments a rule needs in place of the domains' own.

    Attributes:
        names: The N names, in the order of the alignments.
        mixtures: The distributions, ``[N, k]`` float64, rows on the simplex.
    """

    names: tuple[str, ...]
    mixtures: Tensor


def traits(rule: Any) -> Traits:
    """The traits that a rule declares, or the defaults."""
    declared: Traits = getattr(rule, "traits", Traits())
    return declared


def measured_over(rule: Any, domain_names: Sequence[str]) -> Distributions | None:
    """The distributions that a rule needs the alignments of; ``None`` if it needs those of the domains.

    Args:
        rule: The rule, which may define ``measured_over(domain_names)``.
        domain_names: The k names.

    Raises:
        ValueError: If a distribution does not fit the domains.
    """
    declared = getattr(rule, "measured_over", None)
    found: Distributions | None = declared(domain_names) if declared is not None else None
    return found
