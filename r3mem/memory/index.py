"""``index.jsonl``: which file of a folder holds which document's memory.

One line a document, in order: ``document`` (its number), ``origin`` (where its text stood), ``file``; then ``of`` (how
many lines there are) and ``digest`` (of this line and the one before): a line that was lost or changed is found.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from r3mem.errors import InputError
from r3mem.plain_data.seal import RESTORE, SEAL, is_whole, sealed
from r3mem.plain_data.whole_file import replacing

INDEX = "index.jsonl"
BEFORE = "before"
AGAIN = f"{RESTORE}: the same r3mem predict writes it anew and leaves the memories as they are"


def write_index(lines: Iterable[dict[str, Any]], folder: Path) -> None:
    """Write or replace the index of a folder.

    Args:
        lines: For each document ``document``, ``origin`` and ``file``.
        folder: Where the files are.

    Raises:
        InputError: If the disk refuses.
    """
    kept, before = list(lines), ""
    with replacing(folder / INDEX) as written, written.open("w", encoding="utf-8") as file:
        for line in kept:
            whole = sealed({**line, "of": len(kept), BEFORE: before})
            before = whole[SEAL]
            del whole[BEFORE]
            file.write(json.dumps(whole, ensure_ascii=False) + "\n")


def read_index(folder: str | Path) -> list[dict[str, Any]]:
    """The lines of a folder's index: ``document``, ``origin`` and ``file`` of each document.

    An index that an earlier version wrote has no digests, and is taken as it is.

    Args:
        folder: What ``r3mem predict`` wrote.

    Raises:
        InputError: No such file, no index, or not what was written.
    """
    path = Path(folder) / INDEX
    if not path.is_file():
        raise InputError(f"index {path}: no such file; give a folder that r3mem predict wrote to its end")
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        whole = _is_whole(lines)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"index {path}: cannot be read ({error}); {AGAIN}") from error
    if not whole:
        raise InputError(f"index {path}: damaged, its lines are not those that were written; {AGAIN}")
    return [{key: line[key] for key in ("document", "origin", "file")} for line in lines]


def _is_whole(lines: list[dict[str, Any]]) -> bool:
    before = ""
    earlier = bool(lines) and all(set(line) == {"document", "origin", "file"} for line in lines)
    for line in () if earlier else lines:
        if line.get("of") != len(lines) or not is_whole({**line, BEFORE: before}):
            return False
        before = line[SEAL]
    return bool(lines)
