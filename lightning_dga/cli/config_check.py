"""Checks the values of a config by key, before any data is read or any object is made.

Every ``_target_`` of a config is a class or function whose signature determines the allowed keys and types. An unknown
name or a value of another type is reported here in one line, instead of by a traceback later in the run.
"""

import difflib
import inspect
import types
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import TensorDataset

from lightning_dga._lightning import MisconfigurationException
from lightning_dga.data import MixtureDataModule
from lightning_dga.data.text import text_mixture

_NUMBERS = (bool, int, float, str, type(None))
_HYDRA = ("_target_", "_args_", "_partial_", "_convert_", "_recursive_")
# bool is checked separately, because it is not accepted as a number; a string may look like a number
_ACCEPTED: dict[Any, tuple[type, ...]] = {int: (int,), float: (int, float), str: (str, int, float)}
_MOST_SEED = 2**32 - 1  # numpy's limit, and Lightning's


@dataclass
class _Run:
    """The top-level keys of ``conf/train.yaml`` that do not belong to a config group."""

    seed: int
    resume: bool
    overwrite: bool
    test: bool
    plan: bool


def check_config(config: DictConfig) -> None:
    """Checks all values of a composed ``conf/train.yaml`` that are numbers, strings or booleans.

    Raises:
        MisconfigurationException: If a key is unknown or a value has the wrong type; the message names the key.
    """
    for field in fields(_Run):
        if field.name in config:
            _check_value(field.name, config[field.name], field.type)
    if not 0 <= config.seed <= _MOST_SEED:
        raise MisconfigurationException(f"`seed` must be between 0 and {_MOST_SEED}, got {config.seed}.")
    for key, node in _nodes(config, ""):
        _check_node(key, node)
    _check_mixture(config.data)


def closest(name: str, known: Any) -> str:
    """A sentence that suggests names close to a misspelt one; empty if none is close."""
    found = difflib.get_close_matches(name, [str(one) for one in known], n=2)
    return f" Did you mean {' or '.join(f'`{one}`' for one in found)}?" if found else ""


def accepts_none(target: str, name: str) -> bool:
    """Whether an argument may be ``None`` according to its type hint."""
    return _fits(None, _hints(target).get(name, Any))


def _nodes(config: DictConfig, prefix: str) -> Iterator[tuple[str, DictConfig]]:
    for name in _names(config):
        # not resolved: resolving a prior may count a whole corpus, and nothing is to be computed here
        if OmegaConf.is_missing(config, name) or OmegaConf.is_interpolation(config, name):
            continue
        node = config[name]
        if isinstance(node, DictConfig):
            if "_target_" in node:
                yield f"{prefix}{name}", node
            yield from _nodes(node, f"{prefix}{name}.")


def _names(node: DictConfig) -> list[str]:
    return [name for name in node if isinstance(name, str)]


def _check_node(key: str, node: DictConfig) -> None:
    target = node["_target_"]
    known = _arguments(target)
    hints = _hints(target)
    for name in _names(node):
        if name in _HYDRA or OmegaConf.is_missing(node, name):
            continue
        if known is not None and name not in known:
            raise MisconfigurationException(f"`{key}.{name}` is not an argument of {target}.{closest(name, known)}")
        if (hint := hints.get(name, Any)) is not Any and _is_plain(hint):
            _check_value(f"{key}.{name}", node[name], hint, target)


def _check_value(key: str, value: Any, hint: Any, target: str = "") -> None:
    # null leaves a Trainer setting at Lightning's default
    default = value is None and target.endswith("Trainer")
    if not default and isinstance(value, _NUMBERS) and not _fits(value, hint):
        quoted = f" Quote it to pass a string: '{key}=\"{value}\"'." if _fits(str(value), hint) else ""
        raise MisconfigurationException(f"`{key}` must be {_in_words(hint)}, got {value!r}.{quoted}")


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) in (Union, types.UnionType):
        # a number such as 2024 is accepted as a name, but not as a path
        of_path = any(hasattr(one, "__fspath__") for one in get_args(hint)) and not isinstance(value, str)
        return any(_fits(value, one) for one in get_args(hint) if not (of_path and one is str))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if isinstance(value, bool):
        return hint in (bool, Any)
    if value is None:
        return hint in (None, type(None), Any)
    # of class types, paths are written as strings, and all others by a `_target_`
    of_text = hasattr(hint, "__fspath__") and isinstance(value, str)
    return hint is Any or of_text or isinstance(value, _ACCEPTED.get(hint, ()))


def _is_plain(hint: Any) -> bool:
    """Whether values of the type can be written in a config; values of other classes are not checked."""
    if get_origin(hint) in (Union, types.UnionType):
        return any(_is_plain(one) for one in get_args(hint) if one is not type(None))
    return get_origin(hint) is Literal or hint in _NUMBERS or hasattr(hint, "__fspath__")


def _in_words(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_in_words(one) for one in get_args(hint)))
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    words = {int: "an integer", float: "a number", bool: "true or false", str: "a string", type(None): "null"}
    if hint in words:
        return words[hint]
    return "a path" if hasattr(hint, "__fspath__") else f"a {getattr(hint, '__name__', hint)}"


@cache
def _hints(target: str) -> dict[str, Any]:
    hints: dict[str, Any] = {}
    for made in _signed(target):
        try:
            hints = get_type_hints(made.__init__ if isinstance(made, type) else made) | hints  # type: ignore[misc]
        except (NameError, TypeError):  # hints with names that are imported only under TYPE_CHECKING
            continue
    return hints


@cache
def _arguments(target: str) -> frozenset[str] | None:
    """The arguments that a target takes; ``None`` if it takes any, or has no signature."""
    signed = _signed(target)
    names: set[str] = set()
    for made in signed:
        try:
            parameters = inspect.signature(made).parameters.values()
        except (TypeError, ValueError):
            return None
        names |= {one.name for one in parameters if one.kind is not one.VAR_KEYWORD}
        if made is signed[-1] and any(one.kind is one.VAR_KEYWORD for one in parameters):
            return None
    return frozenset(names)


def _signed(target: str) -> list[Any]:
    """A target, followed by the callables that its ``**kwargs`` are passed to."""
    made = get_object(target)
    passed_on = [text_mixture, MixtureDataModule] if target.startswith("lightning_dga.data.text.") else []
    return [made, *passed_on]


def _check_mixture(node: DictConfig) -> None:
    """Lets the data module check its own settings, by constructing it with dummy data."""
    if not str(node.get("_target_", "")).startswith("lightning_dga.data."):
        return
    taken = set(inspect.signature(MixtureDataModule).parameters) - {"domains", "target", "val", "test", "weights"}
    plain = {
        name: node[name]
        for name in _names(node)
        if name in taken and not OmegaConf.is_missing(node, name) and isinstance(node[name], _NUMBERS)
    }
    one = TensorDataset(torch.zeros(1, 1))
    try:
        MixtureDataModule({"a": one, "b": one}, one, **plain)
    except (TypeError, ValueError) as error:
        raise MisconfigurationException(f"`data`: {error}") from error
