"""Lightning callbacks, the only room that knows a Trainer."""

from typing import TYPE_CHECKING

from lightning_dga._lazy import lazy

if TYPE_CHECKING:
    from lightning_dga.callbacks.checkpoints import newest_checkpoint
    from lightning_dga.callbacks.dynamic_gradient_alignment import DynamicGradientAlignment
    from lightning_dga.callbacks.preemption import Preempted, Preemption
    from lightning_dga.callbacks.progress_bar import MixtureProgressBar
    from lightning_dga.callbacks.run_logger import RunLogger
    from lightning_dga.callbacks.run_recorder import RunRecorder

__all__ = [
    "DynamicGradientAlignment",
    "MixtureProgressBar",
    "Preempted",
    "Preemption",
    "RunLogger",
    "RunRecorder",
    "newest_checkpoint",
]

__getattr__ = lazy(
    __name__,
    {
        "DynamicGradientAlignment": "dynamic_gradient_alignment",
        "MixtureProgressBar": "progress_bar",
        "Preempted": "preemption",
        "Preemption": "preemption",
        "RunLogger": "run_logger",
        "RunRecorder": "run_recorder",
        "newest_checkpoint": "checkpoints",
    },
)
