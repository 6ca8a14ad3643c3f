"""Domain weights: converts user input into a point on the simplex."""

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_dga.core.yaml_names import name_meant, yaml_readings

WeightsLike = Mapping[str, float] | Sequence[float] | Tensor | str | Path


def as_weights(values: WeightsLike | None, names: Sequence[str], *, argument: str = "weights") -> Tensor:
    """Normalises domain weights.

    Args:
        values: A mapping that names every domain, or ``k`` numbers in the order of ``names``, or a ``.json`` or
            ``.npy`` file of either, as written by ``dga-domains``. They need not sum to one. ``None`` is uniform.
        names: The k domain names.
        argument: Name of ``values`` in error messages.

    Returns:
        The weights, ``[k]`` float64, non-negative, summing to one.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If a name is missing or unknown, the number of weights is not k, a weight is NaN, infinite or
            negative, all are zero, or the file is of another type or cannot be read.

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
    if file.suffix.lower() not in (".json", ".npy"):
        raise ValueError(f"`{argument}` is {str(file)!r}; give numbers, a mapping, or a .json or .npy file of them.")
    if not file.is_file():
        raise FileNotFoundError(f"`{argument}`: there is no file {file}; `dga-domains` can make one.")
    try:
        if file.suffix.lower() == ".npy":
            return torch.from_numpy(np.load(file, allow_pickle=False))
        values = json.loads(file.read_text(encoding="utf-8-sig"), object_pairs_hook=_without_repetition)
    # EOFError: an empty .npy file; TypeError: a .npy file of strings; RecursionError: JSON that is nested too deep
    except (ValueError, EOFError, TypeError, OSError, RecursionError) as error:
        raise ValueError(f"`{argument}`: {file} cannot be read ({error}).") from error
    if not isinstance(values, Mapping):
        raise ValueError(f"`{argument}`: {file} holds a JSON {type(values).__name__}, expected {{name: number, …}}.")
    return values


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        repeated = next(name for index, (name, _) in enumerate(pairs) if name in dict(pairs[:index]))
        raise ValueError(f"it names {repeated!r} twice")
    return values


def in_order(values: WeightsLike, names: Sequence[str], *, argument: str) -> Tensor:
    """One finite number for each domain.

    Args:
        values: A mapping that names every domain, or ``k`` numbers in the order of ``names``. A key that YAML made of a
            name (``no``, ``2019``) stands for the domain of that name (:func:`~.yaml_names.name_meant`).
        names: The k domain names.
        argument: What to call ``values`` in an error.

    Returns:
        The numbers, ``[k]`` float64, a copy.

    Raises:
        ValueError: If a name is missing, unknown or ambiguous, there are not k numbers, or one is NaN or infinite.
    """
    if isinstance(values, str | Path):
        values = _from_file(Path(values), argument)
    if isinstance(values, Mapping):
        values = _listed_by(values, names, argument)
    try:
        numbers = torch.as_tensor(values, dtype=torch.float64).detach().cpu().clone()
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ValueError(
            f"`{argument}` is {values!r}; expected a mapping that names every domain, or one number for each ({error})."
        ) from error
    if numbers.shape != (len(names),):
        raise ValueError(
            f"`{argument}` has shape {tuple(numbers.shape)}, expected one number for each of the {len(names)} domains."
        )
    # the sum of finite numbers can overflow, so a non-finite sum is checked element by element
    if not numbers.sum().isfinite() and not numbers.isfinite().all():
        first = int((~numbers.isfinite()).nonzero()[0])
        raise ValueError(f"`{argument}` of domain {names[first]!r} is not finite: {numbers[first].item()}.")
    return numbers


def _listed_by(values: Mapping[Any, Any], names: Sequence[str], argument: str) -> list[float]:
    known = set(names)
    by_name: dict[str, float] = {}
    for key, value in values.items():
        name = key if isinstance(key, str) else name_meant(key, names, argument)
        if name not in known:
            close = get_close_matches(name, names, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"`{argument}` names the unknown domain {name!r}.{hint} Domains: {_listed(names)}.")
        if name in by_name:
            raise ValueError(f"`{argument}` names domain {name!r} twice; give it one number.")
        by_name[name] = _number(value, name, argument)
    missing = [name for name in names if name not in by_name]
    if missing:
        misread = [name for name in missing if yaml_readings(name)]
        hint = (
            f" YAML reads {misread[0]} as something else than a name: write '{misread[0]}' in quotes."
            if misread
            else ""
        )
        raise ValueError(
            f"`{argument}` misses {_listed(missing)}; name every domain, with 0 for one that is not to be drawn.{hint}"
        )
    return [by_name[name] for name in names]


def _number(value: Any, name: str, argument: str) -> float:
    try:
        return float(value)
    except OverflowError:
        # an integer beyond the range of float64
        return float("inf") if value > 0 else float("-inf")
    except (TypeError, ValueError):
        raise ValueError(f"`{argument}` of domain {name!r} is {value!r}, expected a number.") from None


def _listed(names: Sequence[str], limit: int = 12) -> str:
    shown = ", ".join(repr(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown}, … ({len(names)} in all)"
