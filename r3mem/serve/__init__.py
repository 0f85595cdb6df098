"""The memory store for other programs: over HTTP, and as tools of an agent by MCP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from r3mem.plain_data.lazy_names import lazy_names

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
_NEEDS = dict.fromkeys(("app", "run", "tools"), (("serve", "r3mem serve"), ("store", "r3mem serve")))
__getattr__, __dir__ = lazy_names(__name__, _PLACES, needs=_NEEDS)
