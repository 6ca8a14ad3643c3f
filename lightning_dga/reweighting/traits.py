"""What a rule asks of the loop that it runs in: data that the rule declares, so that the loop asks for no class."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Traits:
    """What a rule needs and does; a rule that declares no ``traits`` has these.

    Attributes:
        moves: Whether the weights change after the first update. The weights of a data module that is resumed under a
            rule that never moves them are those that it is given now.
        losses_only: Whether the rule goes by the domains' losses, and needs neither alignments nor a target.
        limits_repetition: Whether the rule itself keeps domains from being repeated too often.
        lag: After how many updates the weights follow what is measured; 0 where at once.
    """

    moves: bool = True
    losses_only: bool = False
    limits_repetition: bool = False
    lag: float = 0.0


@dataclass(frozen=True)
class Distributions:
    """Distributions over the domains whose alignments a rule wants in place of the domains' own.

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
    """The distributions that a rule wants alignments of; ``None`` where it wants those of the domains.

    Args:
        rule: The rule, which may define ``measured_over(domain_names)``.
        domain_names: The k names.

    Raises:
        ValueError: If a distribution does not fit the domains.
    """
    declared = getattr(rule, "measured_over", None)
    found: Distributions | None = declared(domain_names) if declared is not None else None
    return found
