"""Objects that users pass as a domain, a target or validation data."""

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_dga import MixtureDataModule
from tests.helpers.toys import Points

REFUSED = {
    "loader": (DataLoader(Points(0, 4)), "is a DataLoader; give its `dataset`"),
    "module": (L.LightningDataModule(), "is a LightningDataModule; give the data set"),
    "path": ("corpus/wiki.jsonl", "is the path 'corpus/wiki.jsonl'; open it first"),
    "none": (None, "is None; give a data set"),
    "splits": ({"train": Points(0, 4), "test": Points(0, 4)}, "is a mapping .'train', 'test'.; give one data set"),
    "number": (3, "is a int, which is neither"),
    "empty": ([], "is empty; remove it"),
    "no length": (
        type("Endless", (), {"__getitem__": lambda self, index: index})(),
        "is a Endless that has `__getitem__` but no `__len__`; define `__len__`",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_data_set_is_refused_with_the_remedy(kind):
    given, message = REFUSED[kind]
    with pytest.raises((TypeError, ValueError), match=f"Domain 'b' {message}"):
        MixtureDataModule({"a": Points(0, 4), "b": given}, Points(0, 4), batch_size=2)
    if kind not in ("none", "splits"):
        with pytest.raises((TypeError, ValueError), match=f"Target 'target' {message}"):
            MixtureDataModule({"a": Points(0, 4)}, given, batch_size=2)


@pytest.mark.parametrize("given", [[Points(0, 4)], Points(0, 4), DataLoader(Points(0, 4))])
def test_domains_are_a_mapping(given):
    with pytest.raises(TypeError, match=r"`domains` is a .*; give a mapping from each domain's name to its data set"):
        MixtureDataModule(given, Points(0, 4), batch_size=2)


@pytest.mark.parametrize(
    "samples", [[torch.ones(2), torch.zeros(2)], [{"x": 1}, {"x": 2}], ["ab", "cd"], np.ones((2, 3)), torch.ones(2, 3)]
)
def test_a_list_or_array_of_samples_is_a_data_set(samples):
    data = MixtureDataModule({"a": samples}, samples, val=samples, batch_size=2)
    next(iter(data.train_dataloader()))
    assert data.domain_sizes.tolist() == [2]
    assert len(data.val_dataloader()) == 1


def test_validation_and_test_data_may_be_several():
    loader = DataLoader(Points(2, 6), batch_size=3)
    data = MixtureDataModule(
        {"a": Points(0, 4)}, Points(0, 4), batch_size=2, val=[Points(0, 4), loader], test={"x": Points(0, 4)}
    )
    first, second = data.val_dataloader()
    assert len(first) == 2 and second is loader
    assert list(data.test_dataloader()) == ["x"]


def test_validation_data_that_are_none_are_refused():
    with pytest.raises(TypeError, match="`val` 'news' is the path"):
        MixtureDataModule({"a": Points(0, 4)}, Points(0, 4), batch_size=2, val={"news": "news.jsonl"})
    with pytest.raises(TypeError, match="`test` is the path"):
        MixtureDataModule({"a": Points(0, 4)}, Points(0, 4), batch_size=2, test="news.jsonl")
