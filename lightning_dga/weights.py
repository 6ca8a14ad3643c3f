"""Domain weights: reading what a user gives into a point of the simplex."""

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

WeightsLike = Mapping[str, float] | Sequence[float] | Tensor | str | Path


def as_weights(values: WeightsLike | None, names: Sequence[str], *, argument: str = "weights") -> Tensor:
    """Normalises domain weights.

    Args:
        values: A mapping that names every domain, or ``k`` numbers in the order of ``names``; ``None`` is uniform.
            They need not sum to one. Or a file of either, as ``dga-domains`` writes them: ``.json`` or ``.npy``.
        names: The k domain names.
        argument: What to call ``values`` in an error.

    Returns:
        The weights, ``[k]`` float64, non-negative, summing to one.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a name is missing or unknown, the number of weights is not k, or a weight is NaN, infinite or
            negative, or all are zero, or the file is of another kind.

    Example:
        >>> as_weights({"wiki": 3, "code": 1}, ["code", "wiki"])
        tensor([0.2500, 0.7500], dtype=torch.float64)
    """
    if values is None:
        return torch.full((len(names),), 1.0 / len(names), dtype=torch.float64)
    weights = in_order(values, names, argument=argument)
    least, largest = torch.aminmax(weights)
    if least < 0:
        first = int((weights < 0).nonzero()[0])
        raise ValueError(f"`{argument}` of domain {names[first]!r} is negative: {weights[first].item()}.")
    if largest == 0:
        raise ValueError(f"`{argument}` are all zero; give at least one domain a positive weight.")
    # dividing by the largest first keeps the sum finite for weights near the end of the range
    weights /= largest
    return weights.div_(weights.sum())


def _from_file(file: Path, argument: str) -> Mapping[str, float] | Tensor:
    if file.suffix not in (".json", ".npy"):
        raise ValueError(f"`{argument}` is {str(file)!r}; give numbers, a mapping, or a .json or .npy file of them.")
    if not file.is_file():
        raise FileNotFoundError(f"`{argument}`: there is no file {file}; `dga-domains` can make one.")
    try:
        if file.suffix == ".npy":
            return torch.from_numpy(np.load(file, allow_pickle=False))
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"`{argument}`: {file} cannot be read ({error}).") from error
    if not isinstance(values, Mapping):
        raise ValueError(f"`{argument}`: {file} holds a JSON {type(values).__name__}, expected {{name: number, …}}.")
    return values


def in_order(values: WeightsLike, names: Sequence[str], *, argument: str) -> Tensor:
    """One finite number for each domain.

    Args:
        values: A mapping that names every domain, or ``k`` numbers in the order of ``names``.
        names: The k domain names.
        argument: What to call ``values`` in an error.

    Returns:
        The numbers, ``[k]`` float64, a copy.

    Raises:
        ValueError: If a name is missing or unknown, there are not k numbers, or one is NaN or infinite.
    """
    if isinstance(values, str | Path):
        values = _from_file(Path(values), argument)
    if isinstance(values, Mapping):
        values = _listed_by(values, names, argument)
    numbers = torch.as_tensor(values, dtype=torch.float64).detach().cpu().clone()
    if numbers.shape != (len(names),):
        raise ValueError(
            f"`{argument}` has shape {tuple(numbers.shape)}, expected one number for each of the {len(names)} domains."
        )
    # the sum of finite numbers may overflow, so that this asks further only where there is something to find
    if not numbers.sum().isfinite() and not numbers.isfinite().all():
        first = int((~numbers.isfinite()).nonzero()[0])
        raise ValueError(f"`{argument}` of domain {names[first]!r} is not finite: {numbers[first].item()}.")
    return numbers


def _listed_by(values: Mapping[str, float], names: Sequence[str], argument: str) -> list[float]:
    known = set(names)
    for name in values:
        if name not in known:
            close = get_close_matches(str(name), names, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"`{argument}` names the unknown domain {name!r}.{hint} Domains: {_listed(names)}.")
    missing = [name for name in names if name not in values]
    if missing:
        raise ValueError(
            f"`{argument}` misses {_listed(missing)}; name every domain, with 0 for one that is not to be drawn."
        )
    return [float(values[name]) for name in names]


def _listed(names: Sequence[str], limit: int = 12) -> str:
    shown = ", ".join(repr(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown}, … ({len(names)} in all)"
