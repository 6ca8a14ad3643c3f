"""The Lightning that the user imports, under either of its two names.

``lightning`` and ``pytorch_lightning`` are the same code in two packages, and a ``Trainer`` of one refuses objects of
the other. Our classes therefore derive from whichever the program uses: the one that is already imported, and from both
where both are installed and the choice is not made yet.
"""

import importlib
import sys
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

_NAMESPACES = ("lightning.pytorch", "pytorch_lightning")


def _in_use() -> list[ModuleType]:
    installed = [name for name in _NAMESPACES if find_spec(name.partition(".")[0]) is not None]
    imported = [name for name in installed if name in sys.modules]
    return [importlib.import_module(name) for name in (imported if len(imported) == 1 else installed)]


_IN_USE = _in_use()


def _base(name: str, submodule: str = "") -> Any:
    bases = tuple(
        getattr(importlib.import_module(f"{namespace.__name__}.{submodule}") if submodule else namespace, name)
        for namespace in _IN_USE
    )
    return bases[0] if len(bases) == 1 else type(name, bases, {"__module__": __name__})


if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningDataModule, LightningModule
    from lightning.pytorch.callbacks import Checkpoint, TQDMProgressBar
    from lightning.pytorch.utilities.exceptions import MisconfigurationException
else:
    Callback = _base("Callback")
    Checkpoint = _base("Checkpoint", "callbacks")
    LightningDataModule = _base("LightningDataModule")
    LightningModule = _base("LightningModule")
    TQDMProgressBar = _base("TQDMProgressBar", "callbacks")
    MisconfigurationException = _base("MisconfigurationException", "utilities.exceptions")

# for isinstance: of either package
EarlyStopping = tuple(namespace.callbacks.EarlyStopping for namespace in _IN_USE)
Timer = tuple(namespace.callbacks.Timer for namespace in _IN_USE)

_utilities = importlib.import_module(f"{_IN_USE[0].__name__}.utilities")
rank_zero_info = _utilities.rank_zero_info
rank_zero_warn = _utilities.rank_zero_warn
WarningCache = importlib.import_module(f"{_IN_USE[0].__name__}.utilities.rank_zero").WarningCache
isolate_rng = importlib.import_module(f"{_IN_USE[0].__name__}.utilities.seed").isolate_rng
seed_everything = _IN_USE[0].seed_everything
DummyLogger = importlib.import_module(f"{_IN_USE[0].__name__}.loggers.logger").DummyLogger

__all__ = [
    "Callback",
    "Checkpoint",
    "DummyLogger",
    "EarlyStopping",
    "LightningDataModule",
    "LightningModule",
    "MisconfigurationException",
    "TQDMProgressBar",
    "Timer",
    "WarningCache",
    "isolate_rng",
    "rank_zero_info",
    "rank_zero_warn",
    "seed_everything",
]
