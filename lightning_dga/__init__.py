"""Online data mixing for Lightning: while a model trains, the mixture learns what the target task needs.

Example::

    from lightning_dga import DynamicGradientAlignment, MixtureDataModule

    datamodule = MixtureDataModule(domains={"wiki": wiki, "code": code}, target=target, batch_size=32)
    trainer = L.Trainer(callbacks=[DynamicGradientAlignment()])
    trainer.fit(model, datamodule=datamodule)

Names are imported on first use (PEP 562), so that a subpackage imported alone costs only what it needs itself.
"""

from typing import TYPE_CHECKING

from lightning_dga import _moved
from lightning_dga._lazy import lazy

if TYPE_CHECKING:
    from lightning_dga.callbacks.dynamic_gradient_alignment import DynamicGradientAlignment
    from lightning_dga.callbacks.preemption import Preempted, Preemption, newest_checkpoint
    from lightning_dga.core.alignments import Alignments
    from lightning_dga.data import MixtureDataModule

__version__ = "0.1.0"

_moved.install()

_HOMES = {
    "Alignments": "core.alignments",
    "DynamicGradientAlignment": "callbacks.dynamic_gradient_alignment",
    "MixtureDataModule": "data.datamodule",
    "Preempted": "callbacks.preemption",
    "Preemption": "callbacks.preemption",
    "newest_checkpoint": "callbacks.checkpoints",
}
_ROOMS = ("alignment", "callbacks", "cli", "core", "data", "domains", "engine", "models", "report", "reweighting")

__all__ = [
    "Alignments",
    "DynamicGradientAlignment",
    "MixtureDataModule",
    "Preempted",
    "Preemption",
    "__version__",
    "newest_checkpoint",
]


__getattr__ = lazy(__name__, {**_HOMES, **{room: room for room in _ROOMS}})


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
