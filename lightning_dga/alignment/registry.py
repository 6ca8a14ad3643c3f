"""Registry of estimators by name, including user-defined ones."""

from collections.abc import Callable
from typing import Any, TypeVar

# a callable without arguments that returns an Estimator, a StepEstimator or an Auto
ESTIMATORS: dict[str, Callable[[], Any]] = {}
_Make = TypeVar("_Make", bound=Callable[..., Any])


def register_estimator(name: str) -> Callable[[_Make], _Make]:
    """Registers an estimator so that it can be given by name: to the callback, on a command line and in a config.

    ``estimator="auto"`` chooses only among the package's own estimators, because it has to know their costs.

    Args:
        name: The name of the estimator.

    Returns:
        A decorator for the estimator's class, which must be constructible without arguments.

    Raises:
        ValueError: If the name is taken by another estimator.

    Example::

        @register_estimator("last_layer")
        class LastLayer:
            def measure(self, measurement: Measurement) -> Alignments: ...


        DynamicGradientAlignment(estimator="last_layer")
    """

    def register(make: _Make) -> _Make:
        if ESTIMATORS.get(name, make) is not make:
            raise ValueError(f"`name` {name!r} is that of the estimator {ESTIMATORS[name]!r}; choose another.")
        ESTIMATORS[name] = make
        return make

    return register
