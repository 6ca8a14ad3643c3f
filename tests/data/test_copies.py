"""Copies, pickles and the `repr` of a data module."""

import copy
import pickle

import pytest

from lightning_dga import MixtureDataModule
from tests.helpers.toys import Plain, Points, Stream, mixture, trainer

COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda data: pickle.loads(pickle.dumps(data))}


def batches_of(data, count):
    batches = iter(data.train_dataloader())
    return [next(batches)[2].tolist() for _ in range(count)]


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("sampling", ["multinomial", "quota"])
def test_a_copy_of_a_running_stream_goes_on_alone(how, sampling):
    data = mixture(num_workers=1, sampling=sampling)
    batches = iter(data.train_dataloader())
    for _ in range(3):
        next(batches)
    data.set_weights([3, 1, 1])
    next(batches)
    twin = COPIES[how](data)
    expected = [next(batches)[2].tolist() for _ in range(4)]
    data.teardown("fit")
    assert twin.samples_seen.sum() == 16
    assert batches_of(twin, 4) == expected
    twin.teardown("fit")
    assert data.samples_seen.sum() == 32


@pytest.mark.parametrize("how", COPIES)
def test_before_and_after_a_fit(how):
    data = MixtureDataModule({"a": Points(0, 20), "b": Stream(1, 20)}, Points(0, 8), batch_size=4)
    assert COPIES[how](data).domain_names == ("a", "b")
    trainer(max_steps=3).fit(Plain(), datamodule=data)
    twin = COPIES[how](data)
    assert twin.trainer is None
    assert batches_of(twin, 5) == batches_of(data, 5)


def test_a_copy_says_which_loaders_it_has():
    from lightning.pytorch.utilities.model_helpers import is_overridden

    for data in (mixture(), copy.deepcopy(mixture()), pickle.loads(pickle.dumps(mixture()))):
        assert not is_overridden("val_dataloader", data)
    with_data = pickle.loads(pickle.dumps(mixture(val=Points(0, 4))))
    assert is_overridden("val_dataloader", with_data) and len(with_data.val_dataloader()) == 1


def test_it_says_what_it_is_and_leaves_the_stream_alone():
    data = mixture(k=2)
    batches = iter(data.train_dataloader())
    next(batches)
    shown = f"{data}"
    assert (
        shown
        == repr(data)
        == ("MixtureDataModule(domain0 0.5, domain1 0.5; target: target; batch_size=4, 4 samples seen)")
    )
    next(batches)
    assert "… (30 domains)" in repr(mixture(k=30))


def test_weights_by_name():
    data = mixture(k=2, weights=[3, 1])
    assert data.weights_by_name == {"domain0": 0.75, "domain1": 0.25}
