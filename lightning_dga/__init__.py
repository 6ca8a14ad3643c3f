"""Online data mixing for Lightning: while a model trains, the mixture learns what the target task needs.

Example::

    from lightning_dga import DynamicGradientAlignment, MixtureDataModule

    datamodule = MixtureDataModule(domains={"wiki": wiki, "code": code}, target=target, batch_size=32)
    trainer = L.Trainer(callbacks=[DynamicGradientAlignment(every_n_steps=100)])
    trainer.fit(model, datamodule=datamodule)

Names are imported on first use (PEP 562), so that a subpackage imported alone costs only what it needs itself.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_dga import _moved

if TYPE_CHECKING:
    from lightning_dga.callbacks.dynamic_gradient_alignment import DynamicGradientAlignment
    from lightning_dga.callbacks.preemption import Preempted, Preemption, newest_checkpoint
    from lightning_dga.core.alignments import Alignments
    from lightning_dga.data import MixtureDataModule

__version__ = "0.1.0"

_moved.install()

_EXPORTS = {
    "Alignments": "core.alignments",
    "DynamicGradientAlignment": "callbacks",
    "MixtureDataModule": "data",
    "Preempted": "callbacks",
    "Preemption": "callbacks",
    "newest_checkpoint": "callbacks",
}
_SUBPACKAGES = (
    "alignment",
    "callbacks",
    "cli",
    "core",
    "data",
    "domains",
    "engine",
    "models",
    "report",
    "reweighting",
)

__all__ = [
    "Alignments",
    "DynamicGradientAlignment",
    "MixtureDataModule",
    "Preempted",
    "Preemption",
    "__version__",
    "newest_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return import_module(f"{__name__}.{name}")
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBPACKAGES})
