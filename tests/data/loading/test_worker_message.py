import os
import pickle
from collections import namedtuple
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from torch.utils.data import Dataset

from lightning_dga import MixtureDataModule
from lightning_dga.data.loading import worker_message
from lightning_dga.data.loading.worker_message import WorkerMessage
from tests.helpers.toys import mixture

Pair = namedtuple("Pair", ["first", "second"])
SMALL, LARGE = 16, 100_000


def sent(content):
    """The received batch, and the size of the message in bytes."""
    message = bytes(ForkingPickler.dumps(WorkerMessage(content)))
    return pickle.loads(message), len(message)


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.float32, torch.bfloat16, torch.float16, torch.bool, torch.uint8, torch.complex64]
)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4), (0, 5)])
def test_a_tensor_arrives_as_it_was(dtype, shape):
    tensor = torch.randn(shape).to(dtype)
    arrived, _ = sent(tensor)
    assert arrived.dtype == dtype
    assert arrived.shape == shape
    assert torch.equal(arrived, tensor)
    arrived.zero_()  # it is the receiver's own
    assert torch.equal(sent(tensor)[0], tensor)


def test_what_holds_tensors_arrives_as_it_was():
    tensor = torch.arange(6)
    arrived, _ = sent({"pair": Pair(tensor, "text"), "list": [tensor, None, 1.5]})
    assert type(arrived["pair"]) is Pair
    assert arrived["pair"].first is arrived["list"][0]  # one tensor remains one
    assert arrived["list"][1:] == [None, 1.5]


@pytest.mark.parametrize(
    ("tensor", "by_value"),
    [
        (torch.ones(SMALL), True),
        (torch.ones(LARGE), False),
        (torch.ones(SMALL, SMALL).t(), False),
        (torch.ones(SMALL)[::2], False),
        (torch.ones(SMALL, dtype=torch.complex64).conj(), False),
    ],
    ids=["small", "large", "transposed", "strided", "conjugated"],
)
def test_only_small_plain_tensors_need_no_shared_memory(tensor, by_value):
    before = tensor.clone()
    arrived, size = sent(tensor)
    assert tensor.is_shared() is not by_value
    assert size < 1000
    assert torch.equal(arrived, before)
    assert arrived.stride() == tensor.stride()


def test_batches_of_workers_hold_no_open_files():
    data = mixture(num_workers=2, batches_per_epoch=100)
    batches = iter(data.train_dataloader())
    next(batches)
    before = len(os.listdir("/proc/self/fd"))
    kept = [next(batches) for _ in range(50)]
    assert len(os.listdir("/proc/self/fd")) == before
    assert not any(part.is_shared() for batch in kept for part in batch if isinstance(part, torch.Tensor))
    data.teardown("fit")


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="the system does not show open files")
@pytest.mark.parametrize("opened", [True, False], ids=["through proc", "as torch does"])
def test_large_batches_of_a_worker_arrive_as_they_were(opened, monkeypatch):
    """More batches than are kept for the receiver, with views and duplicates among the tensors."""
    monkeypatch.setattr(worker_message, "_sees_parent", lambda: opened)
    data = MixtureDataModule(
        {"a": Large(40)},
        Large(3),
        batch_size=2,
        num_workers=2,
        prefetch_factor=2,
        collate_fn=views_of,
        batches_per_epoch=24,
    )
    batches = iter(data.train_dataloader())
    kept = [next(batches) for _ in range(24)]
    data.teardown("fit")
    seen = []
    for batch in kept:
        assert torch.equal(batch["whole"], batch["again"]) and torch.equal(batch["whole"][1], batch["row"])
        assert batch["whole"].is_shared()
        seen += batch["whole"][:, -1].tolist()
        batch["whole"].zero_()
    assert sorted(seen[:40]) == list(range(40)) and len(set(seen)) == 40


class Large(Dataset):
    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return torch.full((LARGE,), float(index))


def views_of(samples):
    whole = torch.stack(samples)
    return {"whole": whole, "again": whole.clone(), "row": whole[1]}
