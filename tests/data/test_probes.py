"""Probe samples: of domains, of mixtures of domains, and of several targets."""

import numpy as np
import pytest
import torch

from lightning_dga import MixtureDataModule
from tests.helpers.toys import Points, Stream, mixture

MIXTURES = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.25, 0.75]]).double()


def drawn(probes):
    """Label, domain and index of each sample: a toy sample carries the last two."""
    batches = list(probes)
    labels = np.concatenate([probe.domains for probe in batches])
    return labels, torch.cat([probe.batch[2] for probe in batches])


def test_samples_of_mixtures_come_from_their_domains_in_proportion():
    labels, origins = drawn(mixture().probes(0, 4000, mixtures=MIXTURES).by_domain())
    assert len(labels) == 8000
    for row, weights in enumerate(MIXTURES):
        shares = torch.bincount(origins[labels == row, 0], minlength=3) / 4000
        torch.testing.assert_close(shares.double(), weights, atol=0.03, rtol=0)
    # all of a domain's samples alike
    counts = torch.bincount(origins[origins[:, 0] == 1, 1], minlength=41)
    assert counts.min() > 40 and len(counts) == 41


def test_samples_of_mixtures_are_a_function_of_the_update():
    data = mixture()
    first = drawn(data.probes(3, 5, mixtures=MIXTURES).by_domain())
    again = drawn(mixture().probes(3, 5, mixtures=MIXTURES).mixed())
    assert torch.equal(first[1], again[1]) and (first[0] == again[0]).all()
    assert not torch.equal(first[1], drawn(data.probes(4, 5, mixtures=MIXTURES).by_domain())[1])


def test_processes_share_the_samples_of_mixtures():
    probes = mixture().probes(0, 5, mixtures=MIXTURES)
    whole = drawn(probes.by_domain())[1]
    parts = [type(probes)(**{**vars(probes), "rank": rank, "world_size": 2}) for rank in (0, 1)]
    assert torch.equal(torch.cat([drawn(part.by_domain())[1] for part in parts]), whole)


def test_mixtures_of_streams_are_refused():
    data = MixtureDataModule({"a": Points(0, 9), "b": Stream(1, 9)}, Points(2, 9), batch_size=2)
    with pytest.raises(ValueError, match="Mixtures of domains can be probed only where each domain is a map-style"):
        data.probes(0, 2, mixtures=torch.tensor([[0.5, 0.5]]).double())


def test_each_of_several_targets_has_its_samples():
    data = MixtureDataModule(
        {"a": Points(0, 9), "b": Points(1, 9)},
        {"x": Points(2, 9), "y": Points(3, 4)},
        batch_size=2,
        target_batch_size=6,
    )
    assert data.target_names == ("x", "y")
    for number, (seed, size) in enumerate([(2, 6), (3, 4)]):
        probes = data.probes(0, 2, target=number)
        labels, origins = drawn(probes.target())
        assert (labels == -1).all() and probes.target_samples == len(labels) == size
        assert (origins[:, 0] == seed).all()
