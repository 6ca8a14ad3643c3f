"""Measures alignments from a model and batches: all use of autograd, but no data loading and no Trainer."""

from lightning_dga.alignment.cost import Cost, TrainingStep
from lightning_dga.alignment.estimator import Estimator, EstimatorRefusal, Measurement, Preconditioner
from lightning_dga.alignment.estimators.auto import Auto
from lightning_dga.alignment.estimators.backward import Backward
from lightning_dga.alignment.estimators.batched import Batched
from lightning_dga.alignment.estimators.finite_difference import FiniteDifference, InexactError
from lightning_dga.alignment.estimators.in_step import InStep
from lightning_dga.alignment.estimators.losses import Losses
from lightning_dga.alignment.gradients.gradient import FlatGradient
from lightning_dga.alignment.gradients.preconditioner import adam_preconditioner
from lightning_dga.alignment.gradients.target import target_loss
from lightning_dga.alignment.probing.evaluation_loss import NoEvaluationLossError, check_evaluation_loss
from lightning_dga.alignment.probing.isolation import isolated
from lightning_dga.alignment.probing.loss import (
    LossFunction,
    MeanLossError,
    ProbeLoss,
    find_loss,
    training_step_loss,
    uses_training_step,
)
from lightning_dga.alignment.probing.origins import NamedProbes
from lightning_dga.alignment.probing.probes import ProbeBatch, Probes
from lightning_dga.alignment.registry import ESTIMATORS, register_estimator
from lightning_dga.alignment.step_estimator import StepEstimator

__all__ = [
    "ESTIMATORS",
    "Auto",
    "Backward",
    "Batched",
    "Cost",
    "Estimator",
    "EstimatorRefusal",
    "FiniteDifference",
    "FlatGradient",
    "InStep",
    "InexactError",
    "LossFunction",
    "Losses",
    "MeanLossError",
    "Measurement",
    "NamedProbes",
    "NoEvaluationLossError",
    "Preconditioner",
    "ProbeBatch",
    "ProbeLoss",
    "Probes",
    "StepEstimator",
    "TrainingStep",
    "adam_preconditioner",
    "check_evaluation_loss",
    "find_loss",
    "isolated",
    "register_estimator",
    "target_loss",
    "training_step_loss",
    "uses_training_step",
]
