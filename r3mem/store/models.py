"""The model of a store, loaded when something first needs it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from r3mem.model import R3Mem


class ModelOnNeed:
    """A model, or the name of one.

    Args:
        given: A model, a folder, a hub id, ``r3mem:smollm2-135m``, or None for the default.
    """

    def __init__(self, given: R3Mem | str | None) -> None:
        self._given, self._guard = given, threading.Lock()
        self._loaded: R3Mem | None = None if isinstance(given, str) else given

    @property
    def is_loaded(self) -> bool:
        """Whether it is in memory."""
        return self._loaded is not None

    def get(self) -> R3Mem:
        """The model; the first call loads it.

        Raises:
            InputError: There is no such model.
            ConfigError: What it needs is not installed.
        """
        with self._guard:
            if self._loaded is None:
                from r3mem.store.memories import load_model

                assert self._given is None or isinstance(self._given, str)
                self._loaded = load_model(self._given)
            return self._loaded
