"""Checks that a saved callback state belongs to the run that resumes from it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any

from lightning_dga.reweighting import Rule, RuleState

_NAMED = 8
_ANEW = (
    "To start again from the model's weights alone, load them (`Module.load_from_checkpoint(path)`) and call "
    "`trainer.fit` without `ckpt_path`."
)


@dataclass(frozen=True)
class Described:
    """The domains, targets and rule that a callback's state belongs to.

    Attributes:
        domains: The domain names.
        targets: Names of the targets.
        rule: Name of the rule, including the name of a wrapped rule.
        settings: A digest of the rule's settings; empty if the rule's ``repr`` does not show them.
    """

    domains: tuple[str, ...]
    targets: tuple[str, ...]
    rule: str
    settings: str

    @classmethod
    def of(cls, domains: Sequence[str], targets: Sequence[str], rule: Rule) -> "Described":
        """The description of a run."""
        return cls(tuple(domains), tuple(targets), rule_name(rule), _settings(rule))

    def state_dict(self) -> dict[str, Any]:
        """Lists and strings."""
        return {
            "domains": list(self.domains),
            "targets": list(self.targets),
            "rule": self.rule,
            "settings": self.settings,
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> "Described":
        """The inverse of :meth:`state_dict`."""
        return cls(tuple(state["domains"]), tuple(state["targets"]), state["rule"], state["settings"])


def mismatch(saved: Described, now: Described) -> str | None:
    """Why a run cannot resume from a saved state, and what to do about it; ``None`` if it can."""
    if saved.rule != now.rule:
        return (
            f"The callback's state is of the rule {saved.rule}, this run has {now.rule}, which cannot use it. Give "
            f"`rule` as in the run that is resumed. {_ANEW}"
        )
    for what, before, after in (("domains", saved.domains, now.domains), ("targets", saved.targets, now.targets)):
        if before != after:
            return (
                f"The callback holds the weights of {len(before)} {what}, the data module has {len(after)}: "
                f"{_difference(before, after)}. Give `{what if what == 'domains' else 'target'}` as in the run that is "
                f"resumed, or use a new callback for another mixture. {_ANEW}"
            )
    return None


def unlike(state: RuleState, fresh: RuleState) -> bool:
    """Whether a saved state that names no rule cannot be of the rule whose initial state is ``fresh``."""
    return not state.keys() <= fresh.keys() or bool(fresh and not state)


def rule_name(rule: Any) -> str:
    """Name of a rule, including the name of a wrapped rule."""
    inner = getattr(rule, "rule", None)
    return type(rule).__name__ + (f"({rule_name(inner)})" if inner is not None else "")


def _settings(rule: Any) -> str:
    shown = repr(rule) if is_dataclass(rule) else ""
    # a `repr` with a memory address differs between processes
    return "" if not shown or " at 0x" in shown else hashlib.sha256(shown.encode()).hexdigest()


def _difference(before: Sequence[str], after: Sequence[str]) -> str:
    gone = [name for name in before if name not in set(after)]
    new = [name for name in after if name not in set(before)]
    said = [f"{word} {_listed(names)}" for word, names in (("without", gone), ("with", new)) if names]
    return " and ".join(said) or "the same names in another order"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_NAMED])
    return shown + (f", … ({len(names)} in all)" if len(names) > _NAMED else "")
