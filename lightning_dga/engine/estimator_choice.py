"""An estimator that the user chose, behind the interface of one that is chosen automatically."""

import re
from typing import Any, Protocol

from lightning_dga.alignment import (
    Backward,
    Estimator,
    EstimatorRefusal,
    InexactError,
    Measurement,
    ProbeLoss,
    StepEstimator,
    TrainingStep,
)
from lightning_dga.engine.errors import ConfigurationError


class EstimatorChoice(Protocol):
    """Chooses the estimator of each measurement; :class:`~lightning_dga.alignment.Auto` is one."""

    @property
    def name(self) -> str:
        """Name of the estimator in use."""
        ...

    @property
    def reasons(self) -> dict[str, str]:
        """Why each estimator was chosen or not, by name."""
        ...

    def choose(
        self, measurement: Measurement, step: TrainingStep, training_loss: ProbeLoss | None, prefer: str | None = None
    ) -> Estimator | StepEstimator:
        """The estimator to measure with; every rank must call it."""
        ...

    def give_up(self, refusal: EstimatorRefusal) -> Estimator:
        """The estimator to use after the chosen one refused; every rank must call it."""
        ...


class FixedEstimator:
    """Always the user's estimator, but for a measurement whose result it found to be inexact."""

    def __init__(self, estimator: Estimator | StepEstimator) -> None:
        self._given = estimator
        self._in_use: Estimator | StepEstimator = estimator
        self.reasons: dict[str, str] = {}

    @property
    def name(self) -> str:
        """See :class:`EstimatorChoice`."""
        return estimator_name(self._in_use)

    def choose(self, *_: Any) -> Estimator | StepEstimator:
        """See :class:`EstimatorChoice`."""
        self._in_use = self._given
        return self._given

    def give_up(self, refusal: EstimatorRefusal) -> Estimator:
        """See :class:`EstimatorChoice`.

        Raises:
            ConfigurationError: If the estimator cannot measure this model at all.
        """
        if not isinstance(refusal, InexactError):
            raise ConfigurationError(str(refusal)) from refusal
        self._in_use = reference = Backward()
        return reference


def estimator_name(estimator: Any) -> str:
    """The name of an estimator or of an automatic choice, as in ``estimator="finite_difference"``."""
    words = re.findall("[A-Z][a-z0-9]*", type(estimator).__name__)
    return "_".join(words).lower()
