"""Components as plain data and back: what a saved model remembers of its parts.

A component is described as LightningCLI writes it: ``{"class_path": ..., "init_args": {...}}``. The arguments are read
from attributes of the constructor's parameter names, so a subclass needs no registration.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from r3mem.errors import ConfigError

Description = dict[str, Any]


class Component:
    """A part that is no module and that another component takes as an argument, such as a segmenter.

    It stores each constructor argument in an attribute of the same name, and is then described with what holds it.
    """

    def __repr__(self) -> str:
        arguments = describe(self)["init_args"]
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in arguments)})"


def describe(component: Any) -> Description:
    """Class path and constructor arguments of a component, as plain data.

    Raises:
        ConfigError: A constructor argument is not kept as an attribute of the same name, or is not plain data.
    """
    cls = type(component)
    arguments = {}
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        if name == "self" or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if not hasattr(component, name):
            raise ConfigError(f"{cls.__qualname__} cannot be saved: store its argument {name!r} as self.{name}")
        arguments[name] = _plain(getattr(component, name), f"{cls.__qualname__}.{name}")
    return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": arguments}


def build(description: Description, expected: type) -> Any:
    """The component that :func:`describe` described.

    Raises:
        ConfigError: The class cannot be imported, is not of the expected kind or takes other arguments.
    """
    module_name, _, class_name = description["class_path"].rpartition(".")
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{description['class_path']}: cannot be imported ({error}). Put the code that defines it on the path."
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, expected)):
        raise ConfigError(f"{description['class_path']} is not a {expected.__name__}")
    arguments = {name: _rebuilt(value) for name, value in description["init_args"].items()}
    try:
        inspect.signature(cls).bind(**arguments)
    except TypeError as error:
        raise ConfigError(
            f"{description['class_path']} takes other arguments here than where it was described ({error}): "
            "use the version that described it"
        ) from error
    return cls(**arguments)


def digest(description: Description, weights: Mapping[str, Tensor] | None = None) -> str:
    """Short name of a description and of the weights that go with it."""
    state = hashlib.blake2b(json.dumps(description, sort_keys=True).encode(), digest_size=8)
    for name, tensor in sorted((weights or {}).items()):
        state.update(name.encode() + tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return state.hexdigest()


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple | nn.ModuleList):
        return [_plain(item, where) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item, where) for key, item in value.items()}
    if isinstance(value, nn.Module | Component):
        return describe(value)
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
