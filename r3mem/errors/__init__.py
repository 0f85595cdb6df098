"""Every error that r3mem raises on purpose. Each message says what to do next."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class R3MemError(Exception):
    """Base class of all errors of this package."""


class InputError(R3MemError, ValueError):
    """A text, a file or a tensor that cannot be processed as given."""


class ConfigError(R3MemError, ValueError):
    """A combination of settings that cannot work."""


class FingerprintError(R3MemError):
    """A memory or checkpoint that was made by another backbone, stack or format version."""


class RecallError(R3MemError):
    """The recalled tokens are not the ones that were retained; no text is returned."""


class NotFound(InputError):
    """Nothing of that name is in the user's part of a store: unknown, deleted, or another user's."""


class StoreError(R3MemError):
    """A store that cannot be opened, read or written as it is: locked, full, damaged or of another version."""


@contextmanager
def told_in_a_line() -> Iterator[None]:
    """Inside a command, an error of this package ends it with one line and code 2; R3MEM_TRACEBACK=1 shows where."""
    try:
        yield
    except R3MemError as error:
        if os.environ.get("R3MEM_TRACEBACK"):
            raise
        print(f"r3mem: {error}", file=sys.stderr)
        raise SystemExit(2) from None
