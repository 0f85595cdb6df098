"""What commands print: JSON, lines, exact texts."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO


def use_any_character() -> None:
    """Let every text be printed: what the terminal's encoding lacks is told by its number."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON document on a line of its own.

    Args:
        value: What JSON can hold.
    """
    print(json.dumps(value, ensure_ascii=True))


def write_exactly(text: str, stream: TextIO | None = None) -> None:
    """Write a text as it is, in UTF-8; a terminal gets a line end where there is none.

    Args:
        text: The text.
        stream: Where to; None for standard output.
    """
    out = stream or sys.stdout
    if out.isatty() and not text.endswith("\n"):
        text += "\n"
    buffer = getattr(out, "buffer", None)
    if buffer is None:
        out.write(text)
        return
    out.flush()
    buffer.write(text.encode())
    buffer.flush()


def note(line: str) -> None:
    """A line about the work, beside the results.

    Args:
        line: Without its end.
    """
    print(f"r3mem: {line}", file=sys.stderr, flush=True)


def seen(text: str) -> str:
    """A text without characters that would steer a terminal.

    Args:
        text: Any.
    """
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs") else f"\\x{ord(c):02x}" for c in text
    )


def place(source: str | None, start: int, end: int) -> str:
    """Where a text is from, as short as the working folder allows.

    Args:
        source: As of an entry.
        start: As of an entry.
        end: As of an entry.
    """
    if source is None:
        return "-"
    path = Path(source)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        source = str(path.relative_to(Path.cwd()))
    return f"{seen(source)}[{start}:{end}]"


def minute(time: datetime) -> str:
    """A time as a person reads it, in the zone of this machine.

    Args:
        time: With a time zone.
    """
    return time.astimezone().strftime("%Y-%m-%d %H:%M")


def counted(count: int, one: str, many: str = "") -> str:
    """``1 entry``, ``12,000 entries``.

    Args:
        count: How many.
        one: What one is called.
        many: What several are called; None to add an s.
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"
