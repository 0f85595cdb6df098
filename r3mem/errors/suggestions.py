"""What somebody may have meant who mistyped a name."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that is most like a word, or None if none is like it.

    Args:
        word: What was written.
        known: What could have been meant.
    """
    found = difflib.get_close_matches(word, list(known), n=1)
    return found[0] if found else None


class Arguments(argparse.ArgumentParser):
    """Says in one line what is wrong with a command line, and what may have been meant."""

    def parse(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """What the arguments say; an unknown option is told before anything that is missing.

        Args:
            arguments: Instead of the process's own.
        """
        given = sys.argv[1:] if arguments is None else list(arguments)
        for word in given[: given.index("--")] if "--" in given else given:
            name = word.split("=")[0]
            if name.startswith("--") and not any(known.startswith(name) for known in self._option_string_actions):
                near = nearest(name, self._option_string_actions)
                self.error(f"unknown option {name!r}" + (f": did you mean {near!r}?" if near else ""))
        return self.parse_args(given)

    def error(self, message: str) -> NoReturn:
        """Print one line and leave with exit code 2."""
        print(f"r3mem: {message}; see `{self.prog} --help`", file=sys.stderr)
        self.exit(2)
