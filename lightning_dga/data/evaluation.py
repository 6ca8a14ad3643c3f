"""Validation and test data: one data set or several."""

from collections.abc import Callable, Mapping
from typing import Any

from torch.utils.data import DataLoader

from lightning_dga.data.kinds import are_data_sets, check_data_set


def evaluation_loaders(data: Any, make: Callable[[Any], DataLoader]) -> Any:
    """The return value for ``val_dataloader`` or ``test_dataloader``.

    Args:
        data: A data set, a loader, or a list or mapping of either; ``None`` for none.
        make: Makes the loader of a data set.

    Returns:
        The loader, or a list or mapping of loaders.
    """
    if data is None:
        return []
    if isinstance(data, Mapping):
        return {name: _loader(one, make) for name, one in data.items()}
    return [_loader(one, make) for one in data] if are_data_sets(data) else _loader(data, make)


def check_evaluation(argument: str, data: Any) -> None:
    """Checks that data can be validated or tested on.

    Raises:
        TypeError: If it is not a data set, a loader, or a list or mapping of them.
    """
    if data is None:
        return
    several = dict(data) if isinstance(data, Mapping) else dict(enumerate(data)) if are_data_sets(data) else {"": data}
    for name, one in several.items():
        if not isinstance(one, DataLoader):
            check_data_set(f"`{argument}`" + (f" {name!r}" if len(several) > 1 or name != "" else ""), one)


def _loader(data: Any, make: Callable[[Any], DataLoader]) -> DataLoader:
    return data if isinstance(data, DataLoader) else make(data)
