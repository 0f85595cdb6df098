"""Components as plain data and back: what a saved model remembers of its parts.

A component is described as LightningCLI writes it: ``{"class_path": ..., "init_args": {...}}``. The arguments are read
from attributes of the constructor's parameter names, so a subclass needs no registration.

A class has two paths. Where it is found, a saved model says by the shortest public one, such as
``r3mem.compressors.MeanPool``: no file that moves breaks it. What it is called in fingerprints, memories and keys of
stores is the path of its file when they were first written. It never changes, or they would be taken for another's.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from r3mem.errors import ConfigError

Description = dict[str, Any]

#: Modules that were moved since classes in them were first named: where they are, and where they were, by their
#: beginnings; the first that fits counts. Who moves a class adds a line, or memories and models that name it are lost.
MOVED: tuple[tuple[str, str], ...] = (
    ("r3mem.backbone.backbone.", "r3mem.backbone."),
    ("r3mem.compressors.controls.", "r3mem.compressors."),
    ("r3mem.compressors.peers.", "r3mem.compressors."),
    ("r3mem.recall.", "r3mem.reversible."),
    ("r3mem.reversible.couplings.", "r3mem.reversible."),
)


class Component:
    """A part that is no module and that another component takes as an argument, such as a segmenter.

    It stores each constructor argument in an attribute of the same name, and is then described with what holds it.
    """

    def __repr__(self) -> str:
        arguments = describe(self)["init_args"]
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in arguments)})"


def describe(component: Any) -> Description:
    """Class path and constructor arguments of a component, as plain data, from which `build` makes it again.

    Raises:
        ConfigError: A constructor argument is not kept as an attribute of the same name, or is not plain data.
    """
    return _described(component, public_path)


def identity(component: Any) -> Description:
    """The same with the paths that classes had first: for names and keys, which have to stay what they are.

    Raises:
        ConfigError: As of `describe`.
    """
    return _described(component, first_path)


def public_path(cls: type) -> str:
    """The shortest path of a class: that of the outermost package above its file that has it by name.

    Args:
        cls: The class.
    """
    packages = cls.__module__.split(".")
    for end in range(1, len(packages)):
        package = ".".join(packages[:end])
        if getattr(sys.modules.get(package), cls.__qualname__, None) is cls:
            return f"{package}.{cls.__qualname__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def first_path(cls: type) -> str:
    """The path of a class's file when it was first named, and its name.

    Args:
        cls: The class.
    """
    path = f"{cls.__module__}.{cls.__qualname__}"
    return next((then + path.removeprefix(now) for now, then in MOVED if path.startswith(now)), path)


def _described(component: Any, path_of: Callable[[type], str]) -> Description:
    cls = type(component)
    arguments = {}
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        if name == "self" or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if not hasattr(component, name):
            raise ConfigError(f"{cls.__qualname__} cannot be saved: store its argument {name!r} as self.{name}")
        arguments[name] = _plain(getattr(component, name), f"{cls.__qualname__}.{name}", path_of)
    if path_of is first_path:  # Names and keys stay as they were: arguments by their first names, those that are gone.
        first = {now: then for then, now in _said_of_constructor(cls, "renamed_arguments").items()}
        arguments = {**removed_arguments(cls), **{first.get(name, name): value for name, value in arguments.items()}}
    return {"class_path": path_of(cls), "init_args": arguments}


def removed_arguments(cls: type) -> Description:
    """Arguments that a class had in an earlier version, each with the only value that can still be built.

    A class says so in ``removed_arguments``; a subclass with a constructor of its own never had them.
    """
    return _said_of_constructor(cls, "removed_arguments")


def _said_of_constructor(cls: type, attribute: str) -> dict[str, Any]:
    owner = next(owner for owner in cls.__mro__ if "__init__" in vars(owner))
    return dict(vars(owner).get(attribute, {}))


def of_this_version(cls: type, arguments: Description) -> Description:
    """Arguments that an earlier version wrote, by their names now, less those that the class no longer has.

    Raises:
        ConfigError: One of them had another value than the one that can still be built.
    """
    removed = removed_arguments(cls)
    for name, value in removed.items():
        if arguments.get(name, value) != value:
            raise ConfigError(
                f"{cls.__qualname__} was saved with {name} {arguments[name]}, which this version no longer has: "
                "use the version that wrote it"
            )
    names = _said_of_constructor(cls, "renamed_arguments")
    return {names.get(name, name): value for name, value in arguments.items() if name not in removed}


def build(description: Description, expected: type) -> Any:
    """The component that :func:`describe` described.

    Raises:
        ConfigError: The class cannot be imported, is not of the expected kind or takes other arguments.
    """
    cls = imported(description["class_path"])
    if not (isinstance(cls, type) and issubclass(cls, expected)):
        raise ConfigError(f"{description['class_path']} is not a {expected.__name__}")
    given = of_this_version(cls, description["init_args"])
    arguments = {name: _rebuilt(value) for name, value in given.items()}
    try:
        inspect.signature(cls).bind(**arguments)
    except TypeError as error:
        raise ConfigError(
            f"{description['class_path']} takes other arguments here than where it was described ({error}): "
            "use the version that described it"
        ) from error
    return cls(**arguments)


def description_digest(description: Description, weights: Mapping[str, Tensor] | None = None) -> str:
    """Short name of a description and of the weights that go with it."""
    state = hashlib.blake2b(json.dumps(description, sort_keys=True).encode(), digest_size=8)
    for name, tensor in sorted((weights or {}).items()):
        state.update(name.encode() + tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return state.hexdigest()


def imported(path: str) -> Any:
    """What a path names, where it is now.

    Raises:
        ConfigError: There is nothing of that name.
    """
    places = [path, *(now + path.removeprefix(then) for now, then in MOVED if path.startswith(then))]
    failed: list[Exception] = []
    for place in places:
        module_name, _, name = place.rpartition(".")
        try:
            return getattr(importlib.import_module(module_name), name)
        except (ImportError, AttributeError, ValueError) as error:
            failed.append(error)
    raise ConfigError(
        f"{path}: cannot be imported ({failed[0]}). Put the code that defines it on the path."
    ) from failed[0]


def _plain(value: Any, where: str, path_of: Callable[[type], str]) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple | nn.ModuleList):
        return [_plain(item, where, path_of) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item, where, path_of) for key, item in value.items()}
    if isinstance(value, nn.Module | Component):
        return _described(value, path_of)
    raise ConfigError(
        f"{where} is a {type(value).__name__}: constructor arguments must be plain data, modules or components"
    )


def _rebuilt(value: Any) -> Any:
    if isinstance(value, list):
        return [_rebuilt(item) for item in value]
    if isinstance(value, dict) and set(value) == {"class_path", "init_args"}:
        return build(value, object)
    if isinstance(value, dict):
        return {key: _rebuilt(item) for key, item in value.items()}
    return value
