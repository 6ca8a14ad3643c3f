"""Model and batches to alignments. Autograd lives here; no data loading, no Trainer."""

from collections.abc import Callable

from lightning_dga.alignment.backward import Backward
from lightning_dga.alignment.estimator import Estimator, ProbeBatch
from lightning_dga.alignment.gradient import FlatGradient
from lightning_dga.alignment.isolation import isolated
from lightning_dga.alignment.loss import LossFunction, ProbeLoss, find_loss, uses_training_step

ESTIMATORS: dict[str, Callable[[], Estimator]] = {
    "auto": Backward,
    "backward": Backward,
}

__all__ = [
    "ESTIMATORS",
    "Backward",
    "Estimator",
    "FlatGradient",
    "LossFunction",
    "ProbeBatch",
    "ProbeLoss",
    "find_loss",
    "isolated",
    "uses_training_step",
]
