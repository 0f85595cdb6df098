"""Folders to write in before a rename puts the result in place; those of killed writers are removed by the next one.

::

    FOLDER/.r3mem-writing-UID/          gone as soon as nobody writes
        HOST-NUMBER.lock                locked for as long as its writer lives: the system drops the lock of a dead one
        HOST-NUMBER/                    made when the lock is held, removed before it is given up
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: no lock tells there, only the age does.
    fcntl = None  # type: ignore[assignment]

AREA = ".r3mem-writing"
LOCK = ".lock"
#: Where no lock can tell, or the writer is on another machine, what nobody has touched for so long has no writer.
ABANDONED_SECONDS = 24 * 3600.0
TRIES = 100


@contextmanager
def scratch_beside(path: Path) -> Iterator[Path]:
    """Gives an empty folder on the file system of a path; it is removed in the end.

    Folders that killed processes left there are removed first. Those of living ones stay: they are locked.

    Args:
        path: What will be put in place; its folder must be there.

    Raises:
        OSError: The disk refuses.
    """
    area = path.parent / (f"{AREA}-{os.getuid()}" if hasattr(os, "getuid") else AREA)
    _remove_abandoned(area)
    scratch, lock = _claimed(area)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        _give_up(scratch.with_name(scratch.name + LOCK), lock)
        with suppress(OSError):  # Another process writes there.
            area.rmdir()


def _claimed(area: Path) -> tuple[Path, int]:
    """A new folder and its lock."""
    for _ in range(TRIES):
        scratch = area / f"{_host()}-{uuid.uuid4().hex}"
        try:
            area.mkdir(exist_ok=True)
            lock = os.open(scratch.with_name(scratch.name + LOCK), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except FileNotFoundError:  # Another process was the last to write, and removed the area.
            continue
        _lock(lock, wait=True)
        if os.fstat(lock).st_nlink:
            scratch.mkdir()
            return scratch, lock
        os.close(lock)  # Another process took it for abandoned, before it was locked.
    raise FileNotFoundError(f"{area}: removed by other processes again and again")


def _remove_abandoned(area: Path) -> None:
    names = {name.removesuffix(LOCK) for name in _names(area)}
    for scratch in (area / name for name in names):
        path = scratch.with_name(scratch.name + LOCK)
        try:
            lock = os.open(path, os.O_RDWR)
        except OSError:  # Another process has just removed it, or may not be disturbed.
            if _is_old(scratch) and not path.exists():
                shutil.rmtree(scratch, ignore_errors=True)
            continue
        held = _lock(lock, wait=False)
        if (held and scratch.name.startswith(f"{_host()}-")) or (held is not False and _is_old(scratch)):
            shutil.rmtree(scratch, ignore_errors=True)
            _give_up(path, lock)
        else:
            os.close(lock)


def _names(area: Path) -> list[str]:
    try:
        return os.listdir(area)
    except OSError:
        return []


def _lock(lock: int, wait: bool) -> bool | None:
    """Whether the lock is ours now; None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # Some network disks have none.
        return None
    return True


def _give_up(path: Path, lock: int) -> None:
    with suppress(OSError):
        path.unlink()
    os.close(lock)
    with suppress(OSError):
        path.unlink()  # Windows removes no file that is open.


def _is_old(scratch: Path) -> bool:
    times = [0.0]
    for path in (scratch, scratch.with_name(scratch.name + LOCK), *scratch.rglob("*")):
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return time.time() - max(times) > ABANDONED_SECONDS


def _host() -> str:
    return re.sub(r"[^0-9A-Za-z]", "_", platform.node())[:64] or "host"
