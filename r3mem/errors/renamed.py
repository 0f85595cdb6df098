"""Names of earlier versions, refused with what they are called now."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, NoReturn, TypeVar

from r3mem.errors import ConfigError

Class = TypeVar("Class", bound=type)


def renamed_arguments(**names: str) -> Callable[[Class], Class]:
    """Mark constructor arguments of a class that had other names: saved models with the old ones are still read.

    Args:
        **names: The name now, by the one before.

    Returns:
        A decorator of the class. The class gets ``renamed_arguments``, which hold for its own constructor alone.
    """

    def marked(cls: Class) -> Class:
        init = cls.__init__  # type: ignore[misc]  # Of this class, on purpose.

        @wraps(init)
        def checked(self: object, *args: Any, **kwargs: Any) -> None:
            for old in names.keys() & kwargs:
                raise TypeError(f"{cls.__name__} has no argument {old!r} any more: it is called {names[old]!r} now")
            init(self, *args, **kwargs)

        cls.__init__ = checked  # type: ignore[misc]
        cls.renamed_arguments = names  # type: ignore[attr-defined]
        return cls

    return marked


def refuse_old_methods(cls: type, **names: str) -> None:
    """Refuse a subclass that overrides what nothing calls any more; for ``__init_subclass__`` of a base class.

    Args:
        cls: The subclass.
        **names: The name now, by the one before.

    Raises:
        ConfigError: It defines a method by its old name.
    """
    for old in names.keys() & vars(cls):
        raise ConfigError(f"{cls.__name__}.{old} would never be called: rename it to {names[old]}")


def old_names(module: str, **names: str) -> Callable[[str], NoReturn]:
    """The ``__getattr__`` of a module whose names have changed.

    Args:
        module: Name of the module.
        **names: The name now, by the one before.

    Returns:
        A function that raises `ImportError` for an old name, so that ``from module import name`` says it too.
    """

    def missing(name: str) -> NoReturn:
        if name in names:
            raise ImportError(f"{module}.{name} is called {module}.{names[name]} now", name=module)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return missing
