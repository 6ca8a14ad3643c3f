"""Samples of several kinds, and their loaders: ours, and torch's `DataLoader` with a `WeightedRandomSampler`."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

from common.stream_peers import BATCH, WORKERS, endless, weights_of
from lightning_dga import MixtureDataModule

K, PER_DOMAIN = 10, 100
SETTINGS = {"num_workers": WORKERS, "pin_memory": torch.cuda.is_available()}


class Made(Dataset):
    """Samples that are made when they are read, at little cost, so that the loader's own cost shows."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self.make = make

    def __len__(self) -> int:
        return K * PER_DOMAIN

    def __getitem__(self, index: int) -> Any:
        return self.make(index)


def window(length: int) -> Callable[[int], torch.Tensor]:
    return lambda index: torch.full((length,), index)


def image(index: int) -> dict[str, Any]:
    return {"image": torch.full((3, 64, 64), float(index)), "label": index // PER_DOMAIN}


def text(index: int) -> dict[str, Any]:
    return {"tokens": torch.full((16 + 7 * index % 497,), index), "label": index // PER_DOMAIN, "name": f"text {index}"}


def padded(samples: list[dict[str, Any]]) -> dict[str, Any]:
    tokens = [sample["tokens"] for sample in samples]
    return {
        "tokens": pad_sequence(tokens, batch_first=True),
        "lengths": torch.tensor([len(one) for one in tokens]),
        "label": torch.tensor([sample["label"] for sample in samples]),
        "name": [sample["name"] for sample in samples],
    }


KINDS: dict[str, tuple[Callable[[int], Any], Callable[[list[Any]], Any] | None]] = {
    "windows of 128 tokens": (window(128), None),
    "windows of 512 tokens": (window(512), None),
    "windows of 2,048 tokens": (window(2048), None),
    "images of 3×64×64": (image, None),
    "dicts of 16 to 512 tokens": (text, padded),
}


def ours(kind: str) -> Iterator[Any]:
    make, collate = KINDS[kind]
    labels = np.arange(K).repeat(PER_DOMAIN)
    module = MixtureDataModule.from_labels(
        Made(make), labels, Made(make), weights=weights_of(K), collate_fn=collate, batch_size=BATCH,
        batches_per_epoch=10**9, **SETTINGS,
    )  # fmt: skip
    try:
        yield from module.train_dataloader()
    finally:
        module.teardown("fit")


def torchs(kind: str) -> Iterator[Any]:
    make, collate = KINDS[kind]
    sampler = WeightedRandomSampler(weights_of(K).repeat(PER_DOMAIN) / PER_DOMAIN, num_samples=1_000_000)
    return endless(lambda: DataLoader(Made(make), BATCH, sampler=sampler, collate_fn=collate, **SETTINGS))
