"""Estimators by name, those of a user's own among them."""

from collections.abc import Callable
from typing import Any, TypeVar

from lightning_dga.core.registry import Registry

# each takes no argument and makes an Estimator, a StepEstimator or an Auto
ESTIMATORS = Registry("estimator")
_Make = TypeVar("_Make", bound=Callable[..., Any])


def register_estimator(name: str) -> Callable[[_Make], _Make]:
    """Lets an estimator be given by name: to the callback, on a command line and in a config.

    ``estimator="auto"`` chooses among the package's own only, because it has to know the cost of each.

    Args:
        name: Its name.

    Returns:
        A decorator for the class of the estimator, which can be made without arguments.

    Raises:
        ValueError: If another estimator has the name.

    Example::

        @register_estimator("last_layer")
        class LastLayer:
            def measure(self, measurement: Measurement) -> Alignments: ...


        DynamicGradientAlignment(estimator="last_layer")
    """
    return ESTIMATORS.register(name)
