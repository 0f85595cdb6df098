"""The memory commands of ``r3mem``: what they are called, and where each is. Nothing is imported before one is run."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

#: What each does, for the page of help.
COMMANDS = {
    "remember": "keep files, folders or standard input",
    "search": "find memories by words or by a question",
    "recall": "the exact text of a memory, or of a part of it",
    "list": "the memories of a user",
    "history": "the versions of a memory",
    "forget": "erase memories, by id, source, age or number",
    "consolidate": "merge old memories into coarser ones",
    "stats": "how much is kept, waits and failed; --wait compresses",
    "check": "read everything and name what is damaged; --reindex mends searches",
    "export": "write all memories of a user to one file",
    "import": "take in what export wrote",
}
#: What the codes with which a command ends mean.
EXIT_CODES = """exit codes: 0 done; 1 nothing was found; 2 wrong usage, or nothing that could be read;
3 the store refused, or something was left out, which is told"""
#: Options of ``export`` and of no other command of that name.
EXPORT_OPTIONS = ("--store", "--user", "--model", "--force", "--json", "--help")
_MODULES = {"list": "listing", "import": "importing", "export": "exporting"}


def main(name: str, arguments: Sequence[str] | None = None) -> None:
    """Run a memory command.

    Args:
        name: A key of `COMMANDS`.
        arguments: What follows it; None for the process's own.

    Raises:
        SystemExit: With any code but 0.
    """
    command = importlib.import_module(f"{__name__}.{_MODULES.get(name, name)}")
    importlib.import_module(f"{__name__}.running").run(name, command, arguments)
