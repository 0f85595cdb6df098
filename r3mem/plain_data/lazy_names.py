"""Names of a package whose modules are imported when a name is first used (PEP 562): its help costs nothing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from r3mem.errors.extras import check_installed


def lazy_names(
    package: str, places: Mapping[str, Sequence[str]], modules: Sequence[str] = (),
    needs: Mapping[str, Sequence[tuple[str, str]]] | None = None,
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:  # fmt: skip
    """The ``__getattr__`` and the ``__dir__`` of a package.

    Args:
        package: Its ``__name__``.
        places: Names that it gives, by the module of it where each is.
        modules: Modules of it that are reached by an attribute.
        needs: What has to be installed before a module is imported: extras, and what needs them, by its name.
    """
    module_of = {name: module for module, names in places.items() for name in names}

    def missing(name: str) -> Any:
        if name in modules:
            return importlib.import_module(f"{package}.{name}")
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        for extra, use in (needs or {}).get(module_of[name], ()):
            check_installed(extra, use)
        found = getattr(importlib.import_module(f"{package}.{module_of[name]}"), name)
        setattr(sys.modules[package], name, found)
        return found

    def named() -> list[str]:
        return sorted({*vars(sys.modules[package]), *module_of, *modules})

    return missing, named
