"""Names that YAML, OmegaConf or Hydra does not parse as strings: ``no``, ``on``, ``null``, ``2019``, ``1e3``."""

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import yaml


def name_meant(key: Any, names: Sequence[str], argument: str) -> str:
    """The name that was parsed as ``key``.

    Args:
        key: The value that a config has in place of a name: a bool, a number, ``None`` or a date.
        names: The existing names.
        argument: Name of the mapping in error messages.

    Raises:
        ValueError: If no name, or more than one, is parsed as ``key``; the message says to put it in quotes.

    Example:
        >>> name_meant(False, ["en", "no"], "weights"), name_meant(2019, ["2019", "2020"], "weights")
        ('no', '2019')
    """
    # NumPy scalars count as Python numbers
    value = key.item() if hasattr(key, "item") else key
    meant = [name for name in names if any(_same(value, reading) for reading in yaml_readings(name))]
    if len(meant) == 1:
        return meant[0]
    among = f"which may be any of {', '.join(map(repr, meant))}" if meant else "which is no domain's name"
    raise ValueError(
        f"`{argument}` names the domain {key!r} ({type(key).__name__}), {among}. YAML makes this of a name such as "
        "no, on, null or 2019 that stands without quotes: write the name in quotes, as 'no'."
    )


def yaml_readings(name: str) -> list[Any]:
    """How YAML 1.1, OmegaConf and Hydra parse an unquoted name, if not as the name itself.

    Example:
        >>> yaml_readings("wiki"), yaml_readings("off"), yaml_readings("010")
        ([], [False], [8, 10])
    """
    if name.isascii() and name.isdecimal() and name[0] != "0" and len(name) < 20:
        # fast path for cluster labels, of which there may be very many
        return [int(name)]
    if len(name) > 64:
        return []
    readings: list[Any] = []
    with suppress(yaml.YAMLError, ValueError):
        readings.append(yaml.safe_load(name))
    # Hydra and OmegaConf parse more as a number than YAML 1.1 does, for example 1e3
    for number in (int, float):
        try:
            readings.append(number(name))
            break
        except ValueError:
            continue
    read = [reading for reading in readings if not isinstance(reading, str | list | dict)]
    return [value for index, value in enumerate(read) if not any(_same(value, before) for before in read[:index])]


def _same(value: Any, other: Any) -> bool:
    # in Python 1, 1.0 and True are equal, and NaN is not equal to itself
    if type(value) is not type(other):
        return False
    return value == other or (isinstance(value, float) and math.isnan(value) and math.isnan(other))
