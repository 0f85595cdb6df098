"""The memory store for other programs: over HTTP, and as tools of an agent by MCP."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from r3mem.errors.extras import check_installed

if TYPE_CHECKING:
    from r3mem.serve.app import make_app
    from r3mem.serve.keys import KeyFile, KeyRing, Keys, OneUser, add_key
    from r3mem.serve.limits import Limits
    from r3mem.serve.run import serve_http, serve_stdio
    from r3mem.serve.tools import make_tools

__all__ = [
    "KeyFile",
    "KeyRing",
    "Keys",
    "Limits",
    "OneUser",
    "add_key",
    "make_app",
    "make_tools",
    "serve_http",
    "serve_stdio",
]

# Where each name is. A module is imported when one of its names is first used, so that help costs nothing.
_PLACES = {
    "app": ("make_app",),
    "keys": ("KeyFile", "KeyRing", "Keys", "OneUser", "add_key"),
    "limits": ("Limits",),
    "run": ("serve_http", "serve_stdio"),
    "tools": ("make_tools",),
}
_MODULE_OF = {name: module for module, names in _PLACES.items() for name in names}
_NEED_EXTRAS = ("app", "run", "tools")


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _MODULE_OF[name] in _NEED_EXTRAS:
        check_installed("serve", "r3mem serve")
        check_installed("store", "r3mem serve")
    found = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
