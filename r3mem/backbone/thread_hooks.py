"""Hooks that act in the passes of one thread, on a module that other threads run meanwhile.

torch keeps the hooks of a module in one table that every pass goes through. A pass that is on its way through it breaks
when another thread puts a hook in or takes one out. So the tables of modules that get hooks are made safe once.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

#: Held for a look at a table or a change of one, never while a model runs.
_GUARD = threading.RLock()
_TABLES = ("_forward_pre_hooks", "_forward_hooks")


class HookTable(OrderedDict[int, Callable[..., Any]]):
    """Hooks by number; to go through them is to go through those there were at the beginning."""

    def items(self) -> Any:
        """Pairs of number and hook, as they are now."""
        with _GUARD:
            return list(super().items())

    def __setitem__(self, number: int, hook: Callable[..., Any]) -> None:
        with _GUARD:
            super().__setitem__(number, hook)

    def __delitem__(self, number: int) -> None:
        with _GUARD:
            super().__delitem__(number)

    def move_to_end(self, key: int, last: bool = True) -> None:
        """See `OrderedDict.move_to_end`."""
        with _GUARD:
            super().move_to_end(key, last)


def make_safe(modules: Iterable[nn.Module | None]) -> None:
    """Make the tables of modules safe, before anybody shares them; where there are hooks already, as they are.

    Args:
        modules: They get hooks while other threads run them.
    """
    for module in modules:
        for name in _TABLES if module is not None else ():
            if not module.__dict__[name]:  # Handles of hooks know their table, which must stay the same.
                module.__dict__[name] = HookTable()


def in_this_thread(register: Callable[..., Any], hook: Callable[..., Any], **options: Any) -> Callable[[], None]:
    """Register a hook that acts in passes of the calling thread alone.

    Args:
        register: Method of the module, such as ``register_forward_hook``.
        hook: The hook.
        **options: Of the method.

    Returns:
        Takes it out again.
    """
    thread = threading.get_ident()

    def acting(*args: Any) -> Any:
        return hook(*args) if threading.get_ident() == thread else None

    # torch numbers hooks by a counter that all threads share.
    with _GUARD:
        taken_out: Callable[[], None] = register(acting, **options).remove
    return taken_out
