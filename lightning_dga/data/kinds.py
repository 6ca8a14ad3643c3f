"""Checks that a domain is a data set, with hints for common mistakes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset


def check_data_set(name: str, data: Any) -> None:
    """Checks that an object is a data set.

    Raises:
        TypeError: If it is not a data set; the message says what to give.
    """
    remedy = _remedy(data)
    if remedy is not None:
        raise TypeError(f"{name} is {remedy}")
    if not (isinstance(data, IterableDataset) or hasattr(data, "__getitem__") or hasattr(data, "__iter__")):
        raise TypeError(
            f"{name} is a {type(data).__name__}, which is neither a map-style nor an iterable data set. "
            "Define `__getitem__` and `__len__`, or `__iter__`."
        )


def check_domains(domains: Any) -> None:
    """Checks that an object is a mapping of names to data sets.

    Raises:
        TypeError: If it is not; the message says what to give.
    """
    if isinstance(domains, Mapping) or all(hasattr(domains, name) for name in ("names", "sizes", "read", "stream")):
        return
    raise TypeError(
        f"`domains` is a {type(domains).__name__}; give a mapping from each domain's name to its data set, as "
        '{"wiki": wiki, "code": code}, or use `MixtureDataModule.from_labels` for one data set with a label for each '
        "sample."
    )


def are_data_sets(given: Any) -> bool:
    """Whether a list contains data sets, and not the samples of one."""
    return isinstance(given, list | tuple) and len(given) > 0 and all(map(_is_data_set, given))


def _is_data_set(data: Any) -> bool:
    if isinstance(data, Dataset | DataLoader):
        return True
    sample = isinstance(data, Tensor | np.ndarray | Mapping | list | tuple | str | bytes)
    return not sample and hasattr(data, "__getitem__") and hasattr(data, "__len__")


def _remedy(data: Any) -> str | None:
    if data is None:
        return "None; give a data set."
    # one that does not batch is read as any iterable, such as a StatefulDataLoader of torchdata
    if isinstance(data, DataLoader) and data.batch_sampler is not None:
        return (
            "a DataLoader; give its `dataset`, and `batch_size`, `num_workers` and `collate_fn` to the "
            "MixtureDataModule, which draws the batches itself."
        )
    if hasattr(data, "train_dataloader"):
        return "a LightningDataModule; give the data set that it trains on."
    if isinstance(data, str | Path):
        return (
            f"the path {str(data)!r}; open it first, as `lightning_dga.data.text.DocumentStream` does with text, or "
            "use `folder_mixture` or `token_bins_mixture` of `lightning_dga.data.text`."
        )
    if isinstance(data, Mapping):
        names = ", ".join(repr(name) for name in list(data)[:4])
        return f"a mapping ({names}); give one data set, such as one split of a Hugging Face `DatasetDict`."
    return None
