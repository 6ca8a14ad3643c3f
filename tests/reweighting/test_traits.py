"""The traits that rules declare, through every wrapper, and a user's own rules by name."""

from dataclasses import dataclass

import pytest
import torch

from lightning_dga import DynamicGradientAlignment
from lightning_dga.alignment import ESTIMATORS, Backward, register_estimator
from lightning_dga.reweighting import (
    DGA,
    ODM,
    RULES,
    DistributionReweighting,
    Guarded,
    PaperDGA,
    Static,
    Traits,
    measured_over,
    register_rule,
    traits,
)
from tests.helpers.rules import EVERY_RULE, NAMES, WEIGHTS, exposure, of_two_targets

PLAIN = {name: rule for name, rule in EVERY_RULE.items() if name not in ("guarded", "basis")}
BASIS = {"x": [0.6, 0.2, 0.2], "y": [0.1, 0.5, 0.4]}
WRAPPERS = {
    "guarded": lambda rule: Guarded(rule, "hard", most=2.0),
    "basis": lambda rule: DistributionReweighting(rule, {**BASIS, "z": [0, 0, 1]}),
    "guarded basis": lambda rule: Guarded(DistributionReweighting(rule, {**BASIS, "z": [0, 0, 1]}), "hard", most=2.0),
    "basis of guarded": lambda rule: DistributionReweighting(
        Guarded(rule, "hard", most=2.0), {**BASIS, "z": [0, 0, 1]}
    ),
}
# rules whose settings name the domains are given names that the basis has too
RENAMED = {"a": "x", "b": "y", "c": "z"}


def of_the_basis(rule):
    """The rule with settings that name basis distributions in place of domains."""
    named = {
        name: {RENAMED[domain]: value for domain, value in given.items()}
        for name, given in vars(rule).items()
        if isinstance(given, dict)
    }
    return type(rule)(**{**vars(rule), **named})


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", PLAIN)
def test_every_wrapper_takes_every_rule(name, wrapper):
    rule = PLAIN[name] if wrapper == "guarded" else of_the_basis(PLAIN[name])
    wrapped = WRAPPERS[wrapper](rule)
    weights, state = wrapped.start(NAMES, WEIGHTS, exposure())
    over = measured_over(wrapped, NAMES)
    assert (over is None) == (wrapper == "guarded")
    for _ in range(3):
        weights, state = wrapped.update(weights, of_two_targets([3, 1, 0], [0, 1, 2]), state, exposure())
        assert weights.shape == (3,)
        assert weights.min() >= 0
        assert weights.sum().item() == pytest.approx(1)
    assert traits(wrapped).moves == traits(rule).moves
    assert traits(wrapped).limits_repetition == traits(rule).limits_repetition


def test_distributions_over_distributions_are_measured_over_the_domains():
    inner = DistributionReweighting(DGA(), {"p": [1, 1, 0], "q": [0, 0, 1]})
    over = measured_over(DistributionReweighting(inner, {**BASIS, "z": [0, 0, 1]}), NAMES)
    assert over.names == ("p", "q")
    torch.testing.assert_close(over.mixtures, torch.tensor([[0.35, 0.35, 0.3], [0, 0, 1]], dtype=torch.float64))


def test_what_rules_declare():
    assert traits(Static()) == Traits(moves=False)
    assert traits(ODM()).losses_only
    assert not traits(Guarded(ODM(), "hard", most=2.0)).losses_only
    assert traits(PaperDGA(ema=0.05)).lag == 20
    assert traits(object()) == Traits()


@pytest.fixture
def favourite():
    before = dict(RULES)

    @register_rule("favourite")
    @dataclass(frozen=True)
    class Favourite:
        domain: str = "a"

        def start(self, domain_names, weights, exposure):
            return torch.tensor([float(name == self.domain) for name in domain_names]).double(), {}

        def update(self, weights, alignments, state, exposure):
            return weights, state

    yield Favourite
    RULES.clear()
    RULES.update(before)


def test_a_rule_of_a_users_own_can_be_named(favourite):
    assert DynamicGradientAlignment(rule="favourite").rule == favourite()


def test_a_name_is_given_once(favourite):
    register_rule("favourite")(favourite)
    with pytest.raises(ValueError, match="'favourite' is that of the rule"):
        register_rule("favourite")(DGA)
    with pytest.raises(ValueError, match="'backward' is that of the estimator"):
        register_estimator("backward")(object)


def test_an_estimator_of_a_users_own_can_be_named():
    try:
        register_estimator("mine")(lambda: Backward())
        callback = DynamicGradientAlignment(estimator="mine")
    finally:
        ESTIMATORS.pop("mine", None)
    assert isinstance(callback._loop.measurer.estimator, Backward)
