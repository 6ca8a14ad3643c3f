"""Alignments and weights to weights: pure functions on small tensors. No model, no data."""

from difflib import get_close_matches
from inspect import signature
from typing import Any

from lightning_dga.reweighting.basis import DistributionReweighting
from lightning_dga.reweighting.dga import DGA
from lightning_dga.reweighting.doge import DoGE
from lightning_dga.reweighting.doremi import DoReMi
from lightning_dga.reweighting.fixed import Importance, Static, Uniform, WaterFilling
from lightning_dga.reweighting.grape import Grape
from lightning_dga.reweighting.guard import Guarded
from lightning_dga.reweighting.odm import ODM
from lightning_dga.reweighting.paper import PaperDGA
from lightning_dga.reweighting.rule import Rule, RuleState

RULES: dict[str, type[Any]] = {
    "dga": DGA,
    "dga_paper": PaperDGA,
    "doge": DoGE,
    "doremi": DoReMi,
    "grape": Grape,
    "importance": Importance,
    "odm": ODM,
    "static": Static,
    "uniform": Uniform,
    "water_filling": WaterFilling,
}


def make_rule(name: str, **settings: Any) -> Rule:
    """A rule by name.

    Args:
        name: A key of ``RULES``.
        **settings: Its settings; those that are ``None`` are left at their defaults.

    Raises:
        ValueError: If there is no such rule, it has no such setting, or it lacks one.

    Example:
        >>> make_rule("dga", step_size=0.2)
        DGA(step_size=0.2, ema=0.1, enough=0.15, epochs=8.0, lookahead=1.25, prior=None)
    """
    if name not in RULES:
        close = get_close_matches(name, RULES, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"`rule` {name!r} is unknown; choose one of {', '.join(sorted(RULES))}, or give a rule object.{hint}"
        )
    given = {setting: value for setting, value in settings.items() if value is not None}
    make = RULES[name]
    taken = signature(make).parameters
    unknown = [setting for setting in given if setting not in taken]
    if unknown:
        raise ValueError(
            f"`rule` {name!r} does not take these settings: {', '.join(unknown)}. It takes "
            f"{', '.join(taken) or 'none'}."
        )
    if issubclass(make, Importance | WaterFilling) and "prior" not in given:
        raise ValueError(
            f"`rule` {name!r} needs `prior`: how the target spreads over the domains, one number for each. "
            "`dga-domains histogram DIR TARGET` counts it."
        )
    return make(**given)


def needs_losses_only(rule: Rule) -> bool:
    """Whether a rule goes by the domains' losses, and not by alignments with a target."""
    inner = getattr(rule, "rule", None)
    return needs_losses_only(inner) if inner is not None else getattr(rule, "losses_only", False)


__all__ = [
    "DGA",
    "ODM",
    "RULES",
    "DistributionReweighting",
    "DoGE",
    "DoReMi",
    "Grape",
    "Guarded",
    "Importance",
    "PaperDGA",
    "Rule",
    "RuleState",
    "Static",
    "Uniform",
    "WaterFilling",
    "make_rule",
    "needs_losses_only",
]
