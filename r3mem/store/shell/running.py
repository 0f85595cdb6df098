"""A memory command from its arguments to its exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import ModuleType

from r3mem.errors import ConfigError, InputError, NotFound, R3MemError
from r3mem.errors.extras import check_installed
from r3mem.errors.suggestions import Arguments
from r3mem.store.shell import COMMANDS, EXIT_CODES
from r3mem.store.shell.output import use_any_character

DONE, NOTHING, USAGE, REFUSED = 0, 1, 2, 3
#: As a shell reports what ended by SIGINT and by SIGPIPE.
STOPPED, NOBODY_READS = 130, 141


def run(name: str, command: ModuleType, arguments: Sequence[str] | None) -> None:
    """Run a command.

    Args:
        name: What it is called.
        command: Its module, with ``add_arguments`` and ``run``.
        arguments: What follows the name; None for the process's own.

    Raises:
        SystemExit: With any code but 0.
    """
    p = Arguments(
        prog=f"r3mem {name}", description=command.__doc__, epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    p.set_defaults(parser=p)
    command.add_arguments(p)
    args = p.parse(arguments)
    use_any_character()
    code = USAGE
    try:
        for extra in ("shell", "store"):
            check_installed(extra, f"r3mem {name}")
        code = command.run(args)
        sys.stdout.flush()
    except R3MemError as error:
        if os.environ.get("R3MEM_TRACEBACK"):
            raise
        # One line, whatever a message quotes.
        print(f"r3mem: {' '.join(str(error).splitlines())}", file=sys.stderr)
        code = code_of(error)
    except BrokenPipeError:
        # Who read is gone, as with `| head`; what Python still holds for him must not be told at the end either.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = NOBODY_READS
    except KeyboardInterrupt:
        print(f"r3mem: {COMMANDS[name]}: stopped; what was kept before stays kept", file=sys.stderr)
        code = STOPPED
    if code != DONE:
        raise SystemExit(code)


def code_of(error: R3MemError) -> int:
    """The exit code of an error.

    Args:
        error: What a command ended with.
    """
    if isinstance(error, NotFound):
        return NOTHING
    return USAGE if isinstance(error, InputError | ConfigError) else REFUSED
