"""Rules over basis distributions."""

import numpy as np
import pytest
import torch

from lightning_dga.core.basis import Basis
from lightning_dga.reweighting import DistributionReweighting, PaperDGA, Static
from tests.helpers.rules import NAMES, WEIGHTS, exposure, measured, run

BASIS = {"x": {"a": 2, "b": 1, "c": 1}, "y": [0, 0, 1]}


def test_the_domains_get_the_mixture_of_the_basis():
    rule = DistributionReweighting(PaperDGA(step_size=1.0, ema=1.0), BASIS)
    start, once = run(rule, [measured([2.0, 1.0])])
    assert start.tolist() == pytest.approx([0.25, 0.125, 0.625])
    w = torch.softmax(torch.tensor([2.0, 1.0]).double(), 0)
    torch.testing.assert_close(once, w @ torch.tensor([[0.5, 0.25, 0.25], [0, 0, 1]]).double())


def test_a_basis_may_be_a_file(tmp_path):
    Basis(("x", "y"), np.array([[0.5, 0], [0.25, 0], [0.25, 1]])).save(tmp_path / "basis.npy")
    for file in (tmp_path / "basis.npy", str(tmp_path / "basis.npy")):
        rule = DistributionReweighting(Static(), file)
        assert rule.names == ("x", "y")
        torch.testing.assert_close(rule.mixtures(NAMES), DistributionReweighting(Static(), BASIS).mixtures(NAMES))
    with pytest.raises(FileNotFoundError, match="dga-domains basis"):
        DistributionReweighting(Static(), tmp_path / "other.npy")


def test_the_rule_sees_the_basis_as_its_domains():
    seen = []

    class Note(Static):
        def start(self, domain_names, weights, exposure):
            seen.append((domain_names, weights.tolist(), exposure.sizes.tolist()))
            return weights, {}

    DistributionReweighting(Note(), BASIS).start(NAMES, WEIGHTS, exposure())
    assert seen == [(("x", "y"), [0.5, 0.5], pytest.approx([100 / 0.375, 100]))]


@pytest.mark.parametrize(
    ("basis", "message"),
    [({}, "`basis` is empty"), ({"x": {"a": 1}}, r"`basis\['x'\]` misses 'b', 'c'")],
)
def test_a_basis_that_cannot_be_used_is_named(basis, message):
    with pytest.raises(ValueError, match=message):
        DistributionReweighting(Static(), basis).start(NAMES, WEIGHTS, exposure())
