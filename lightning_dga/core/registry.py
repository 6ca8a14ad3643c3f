"""What can be given by name, a user's own among it."""

from collections.abc import Callable
from typing import Any, TypeVar

_Make = TypeVar("_Make", bound=Callable[..., Any])


class Registry(dict[str, Callable[..., Any]]):
    """Classes, or functions that make an object, by name.

    Args:
        kind: What they make, for messages.

    Example:
        >>> shapes = Registry("shape")
        >>> @shapes.register("square")
        ... class Square: ...
        >>> shapes["square"] is Square
        True
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self._kind = kind

    def register(self, name: str) -> Callable[[_Make], _Make]:
        """A decorator that adds what it decorates.

        Raises:
            ValueError: If the name is taken.
        """

        def add(make: _Make) -> _Make:
            if self.get(name, make) is not make:
                raise ValueError(f"`name` {name!r} is that of the {self._kind} {self[name]!r}; choose another.")
            self[name] = make
            return make

        return add
