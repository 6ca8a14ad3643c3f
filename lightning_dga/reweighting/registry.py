"""Registry of rules by name, including user-defined ones."""

from collections.abc import Callable
from inspect import signature
from typing import Any, TypeVar

from lightning_dga.core.arguments import one_of
from lightning_dga.core.registry import Registry
from lightning_dga.reweighting.rule import Rule

RULES = Registry("rule")
_Make = TypeVar("_Make", bound=Callable[..., Rule])


def register_rule(name: str) -> Callable[[_Make], _Make]:
    """Registers a rule so that it can be given by name: to the callback, on a command line and in a config.

    Args:
        name: The name of the rule.

    Returns:
        A decorator for the rule's class, or for a function that returns a rule.

    Raises:
        ValueError: If the name is taken by another rule.

    Example::

        @register_rule("favourite")
        @dataclass(frozen=True)
        class Favourite:
            domain: str = "wiki"

            def start(self, domain_names, weights, exposure): ...

            def update(self, weights, alignments, state, exposure): ...


        DynamicGradientAlignment(rule="favourite")
    """
    return RULES.register(name)


def make_rule(name: str, **settings: Any) -> Rule:
    """Makes a rule by name.

    Args:
        name: A key of ``RULES``.
        **settings: Settings of the rule; those that are ``None`` are left at their defaults.

    Raises:
        ValueError: If the rule is unknown, does not have one of the settings, or needs one that is missing.

    Example:
        >>> from lightning_dga.reweighting import make_rule
        >>> make_rule("dga", step_size=0.2)
        DGA(step_size=0.2, ema=0.1, enough=0.15, epochs=8.0, lookahead=1.25, prior=None)
    """
    one_of("rule", name, RULES, ", or give a rule object")
    given = {setting: value for setting, value in settings.items() if value is not None}
    make = RULES[name]
    taken = signature(make).parameters
    unknown = [setting for setting in given if setting not in taken]
    if unknown:
        raise ValueError(
            f"`rule` {name!r} does not take these settings: {', '.join(unknown)}. It takes "
            f"{', '.join(taken) or 'none'}."
        )
    if getattr(make, "needs_prior", False) and "prior" not in given:
        raise ValueError(
            f"`rule` {name!r} needs `prior`: how the target spreads over the domains, one number for each. "
            "`dga-domains histogram DIR TARGET` counts it."
        )
    rule: Rule = make(**given)
    return rule
