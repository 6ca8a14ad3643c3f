"""Model and batches to alignments. Autograd lives here; no data loading, no Trainer."""

from collections.abc import Callable

from lightning_dga.alignment.backward import Backward
from lightning_dga.alignment.batched import Batched
from lightning_dga.alignment.estimator import Estimator, EstimatorRefusal, Measurement, Preconditioner
from lightning_dga.alignment.gradient import FlatGradient
from lightning_dga.alignment.isolation import isolated
from lightning_dga.alignment.loss import LossFunction, MeanLossError, ProbeLoss, find_loss, uses_training_step
from lightning_dga.alignment.probes import ProbeBatch, Probes

ESTIMATORS: dict[str, Callable[[], Estimator]] = {
    "auto": Backward,
    "backward": Backward,
    "batched": Batched,
}

__all__ = [
    "ESTIMATORS",
    "Backward",
    "Batched",
    "Estimator",
    "EstimatorRefusal",
    "FlatGradient",
    "LossFunction",
    "MeanLossError",
    "Measurement",
    "Preconditioner",
    "ProbeBatch",
    "ProbeLoss",
    "Probes",
    "find_loss",
    "isolated",
    "uses_training_step",
]
