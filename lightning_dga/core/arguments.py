"""Argument checks, with errors that name the argument and the values it takes."""

import math
from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any


def positive_integer(name: str, value: Any) -> int:
    """The value as an ``int``.

    Raises:
        ValueError: If it is not an integer, or not positive. NumPy integers are accepted.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer, got {value!r}{_kind(value)}.")
    return int(value)


def number(name: str, value: Any) -> float:
    """The value as a ``float``.

    Raises:
        ValueError: If it is not a number, or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"`{name}` must be a finite number, got {value!r}{_kind(value)}.")
    return float(value)


def one_of(name: str, value: str, options: Iterable[str], more: str = "") -> str:
    """Returns the value if it is one of the options.

    Raises:
        ValueError: If it is not one of the options; the message suggests the closest spelling.
    """
    known = sorted(options)
    if value not in known:
        close = get_close_matches(value, known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"`{name}` {value!r} is unknown; choose one of {', '.join(known)}{more}.{hint}")
    return value


def an_object(name: str, value: Any, methods: Iterable[str], expected: str) -> Any:
    """Returns the value if it is an object with the given methods.

    Raises:
        ValueError: If it is a class, or lacks one of the methods.
    """
    if isinstance(value, type):
        raise ValueError(f"`{name}` is the class {value.__name__}; give an object, such as `{value.__name__}(...)`.")
    if not all(callable(getattr(value, method, None)) for method in methods):
        raise ValueError(f"`{name}` must be {expected}, got {value!r}{_kind(value)}.")
    return value


def _kind(value: Any) -> str:
    return "" if value is None else f" ({type(value).__name__})"
