"""Lightning callbacks, the only subpackage that knows a Trainer."""

from lightning_dga.callbacks.dynamic_gradient_alignment import DynamicGradientAlignment
from lightning_dga.callbacks.preemption import Preempted, Preemption, newest_checkpoint
from lightning_dga.callbacks.progress_bar import MixtureProgressBar
from lightning_dga.callbacks.run_recorder import RunRecorder
from lightning_dga.callbacks.watchdog import Watchdog

__all__ = [
    "DynamicGradientAlignment",
    "MixtureProgressBar",
    "Preempted",
    "Preemption",
    "RunRecorder",
    "Watchdog",
    "newest_checkpoint",
]
