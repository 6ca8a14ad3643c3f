"""Estimators by name, those of a user's own among them."""

from collections.abc import Callable
from typing import Any, TypeVar

# what takes no argument and makes an Estimator, a StepEstimator or an Auto
ESTIMATORS: dict[str, Callable[[], Any]] = {}
_Make = TypeVar("_Make", bound=Callable[..., Any])


def register_estimator(name: str) -> Callable[[_Make], _Make]:
    """Lets an estimator be given by name: to the callback, on a command line and in a config.

    ``estimator="auto"`` chooses among the package's own only, since it has to know what their work is.

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

    def register(make: _Make) -> _Make:
        if ESTIMATORS.get(name, make) is not make:
            raise ValueError(f"`name` {name!r} is that of the estimator {ESTIMATORS[name]!r}; choose another.")
        ESTIMATORS[name] = make
        return make

    return register
