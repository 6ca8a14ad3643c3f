"""Reweighting rules: alignments and current weights to new weights, as pure functions of small tensors."""

from lightning_dga.reweighting.basis import DistributionReweighting
from lightning_dga.reweighting.dga import DGA
from lightning_dga.reweighting.doge import DoGE
from lightning_dga.reweighting.doremi import DoReMi
from lightning_dga.reweighting.fixed import Importance, Static, Uniform, WaterFilling
from lightning_dga.reweighting.grape import Grape
from lightning_dga.reweighting.guard import Guarded
from lightning_dga.reweighting.odm import ODM
from lightning_dga.reweighting.paper import PaperDGA
from lightning_dga.reweighting.registry import RULES, make_rule, register_rule
from lightning_dga.reweighting.rule import Rule, RuleState
from lightning_dga.reweighting.traits import Distributions, Traits, measured_over, traits

__all__ = [
    "DGA",
    "ODM",
    "RULES",
    "DistributionReweighting",
    "Distributions",
    "DoGE",
    "DoReMi",
    "Grape",
    "Guarded",
    "Importance",
    "PaperDGA",
    "Rule",
    "RuleState",
    "Static",
    "Traits",
    "Uniform",
    "WaterFilling",
    "make_rule",
    "measured_over",
    "register_rule",
    "traits",
]
