"""What the tests of rules share: every rule, and runs of updates."""

import torch

from lightning_dga.core.alignments import Alignments
from lightning_dga.core.data_budget import DataBudget
from lightning_dga.reweighting import (
    DGA,
    ODM,
    DistributionReweighting,
    DoGE,
    DoReMi,
    Grape,
    Guarded,
    Importance,
    PaperDGA,
    Static,
    Uniform,
    WaterFilling,
)

NAMES = ("a", "b", "c")
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
UNIFORM = torch.full((3,), 1 / 3, dtype=torch.float64)
HISTOGRAM = {"a": 3, "b": 1, "c": 0}
TARGETS = ("easy", "hard")
EVERY_RULE = {
    "dga": DGA(),
    "dga with a prior": DGA(prior=HISTOGRAM),
    "dga_paper": PaperDGA(),
    "dga_paper, averaged": PaperDGA(steps_from="averaged"),
    "doge": DoGE(),
    "doremi": DoReMi({"a": 1.0, "b": 2.0, "c": 3.0}),
    "grape": Grape(),
    "guarded": Guarded(DGA(), "hard", most=2.0),
    "basis": DistributionReweighting(DGA(), {"x": [0.6, 0.2, 0.2], "y": [0.1, 0.5, 0.4], "z": [0, 0, 1]}),
    "importance": Importance(HISTOGRAM),
    "odm": ODM(),
    "static": Static(),
    "uniform": Uniform(),
    "water_filling": WaterFilling(HISTOGRAM),
}


def measured(values, target_norm=1.0, counts=None, losses=None, **several):
    values = torch.as_tensor(values, dtype=torch.float64)
    counts = torch.full((len(values),), 4) if counts is None else torch.as_tensor(counts)
    losses = torch.ones_like(values) if losses is None else torch.as_tensor(losses, dtype=torch.float64)
    return Alignments(values, counts, losses, 1.0, target_norm, 1, **several)


def of_two_targets(easy, hard, losses=(1.0, 4.0), norms=(1.0, 2.0)):
    """Alignments with two targets, domain by domain."""
    pairs = zip(TARGETS, (easy, hard), losses, norms, strict=True)
    found = {}
    for name, values, loss, norm in pairs:
        one = measured(values, norm)
        found[name] = Alignments(one.values, one.counts, one.losses, loss, norm, 1)
    return Alignments.of_targets(found)


def exposure(seen=(0, 0, 0), sizes=(100, 100, 100), planned=3000.0):
    return DataBudget(torch.tensor(seen).double(), torch.tensor(sizes).double(), planned)


def run(rule, updates, weights=WEIGHTS, draws=60, sizes=(100, 100, 100), planned=3000.0):
    """Weights after the start and after each update, with ``draws`` samples drawn as the weights say between them."""
    seen = torch.zeros(len(weights)).double()
    sizes = torch.tensor(sizes).double()
    weights, state = rule.start(NAMES[: len(weights)], weights, DataBudget(seen, sizes, planned))
    history = [weights]
    for alignments in updates:
        seen = seen + draws * weights
        weights, state = rule.update(weights, alignments, state, DataBudget(seen, sizes, planned))
        history.append(weights)
    return history
