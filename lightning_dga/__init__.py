"""Online data mixing for Lightning: while a model trains, the mixture learns what the target task needs.

Example::

    from lightning_dga import DynamicGradientAlignment, MixtureDataModule

    datamodule = MixtureDataModule(domains={"wiki": wiki, "code": code}, target=target, batch_size=32)
    trainer = L.Trainer(callbacks=[DynamicGradientAlignment(every_n_steps=100)])
    trainer.fit(model, datamodule=datamodule)
"""

from lightning_dga.alignments import Alignments
from lightning_dga.callback import DynamicGradientAlignment
from lightning_dga.data import MixtureDataModule
from lightning_dga.preemption import Preempted, Preemption, newest_checkpoint

__version__ = "0.1.0"

__all__ = [
    "Alignments",
    "DynamicGradientAlignment",
    "MixtureDataModule",
    "Preempted",
    "Preemption",
    "__version__",
    "newest_checkpoint",
]
