"""Who may ask: API keys and the users that they stand for.

A file of keys, or the variable ``R3MEM_KEYS``, has a line for each key. Only a key's SHA-256 is kept::

    # Ann's laptop
    sha256:5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5 ann
    sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 " a name with blanks at its ends "

A key is 256 random bits, which nobody guesses: a slow hash and a limit on tries would add nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import stat
import threading
from abc import ABC, abstractmethod
from os import PathLike
from pathlib import Path

from r3mem.errors import ConfigError, InputError
from r3mem.errors.given_paths import given_path
from r3mem.store.scope import check_name

logger = logging.getLogger(__name__)
#: Where keys may stand instead of in a file.
VARIABLE = "R3MEM_KEYS"
PREFIX = "r3mem_"
LINE = re.compile(r"sha256:([0-9a-f]{64}) (.+)")


class Keys(ABC):
    """Says whose a request is."""

    #: Whether a request must bring a key.
    needed = True

    @abstractmethod
    def user_of(self, key: str | None) -> str | None:
        """The user of a key; None where it is not known.

        Args:
            key: As the request gave it; None if it gave none.
        """


class OneUser(Keys):
    """No keys: whoever reaches the server is one user.

    Args:
        user: The user.

    Raises:
        InputError: It cannot be a name.
    """

    needed = False

    def __init__(self, user: str) -> None:
        check_name(user, "user")
        self.user = user

    def user_of(self, key: str | None) -> str | None:
        """See :class:`Keys`."""
        return self.user


class KeyRing(Keys):
    """Keys as the lines of a text.

    Args:
        text: The lines.
        where: Where they stand, named in errors.

    Raises:
        ConfigError: A line is none, a key stands twice, or there is no key.
    """

    def __init__(self, text: str, where: str) -> None:
        users = dict[bytes, str]()
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            digest, user = _read(line, f"{where}, line {number}")
            if digest in users:
                raise ConfigError(f"{where}, line {number}: this key stands there twice: remove one of the lines")
            users[digest] = user
        if not users:
            raise ConfigError(f"{where} has no key: make one with r3mem serve --new-key USER --keys FILE")
        self._users = tuple(users.items())

    def user_of(self, key: str | None) -> str | None:
        """See :class:`Keys`. Every key is compared, each in constant time: the time says nothing about any."""
        given, found = _digest(key or ""), None
        for digest, user in self._users:
            if hmac.compare_digest(digest, given):
                found = user
        return found


class KeyFile(Keys):
    """Keys of a file, read anew when the file changes: a line that is removed holds no longer.

    Args:
        path: The file.

    Raises:
        ConfigError: It cannot be read, everybody may write to it, or it holds no keys.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self._path, self._guard = given_path(path, "the keys"), threading.Lock()
        self._state = self._look()
        self._ring = self._read()

    def user_of(self, key: str | None) -> str | None:
        """See :class:`Keys`. A file that cannot be read any more lets nobody in."""
        with self._guard:
            try:
                state = self._look()
                if state != self._state:
                    self._ring, self._state = self._read(), state
            except ConfigError as error:
                logger.error("no key holds at present: %s", error)
                return None
            ring = self._ring
        return ring.user_of(key)

    def _look(self) -> tuple[int, ...]:
        try:
            seen = self._path.stat()
        except OSError as error:
            raise ConfigError(f"keys {self._path} cannot be read ({error.strerror or error})") from error
        return seen.st_mtime_ns, seen.st_size, seen.st_ino

    def _read(self) -> KeyRing:
        try:
            if os.name == "posix" and self._path.stat().st_mode & stat.S_IWOTH:
                raise ConfigError(f"keys {self._path}: everybody may write to it: chmod 600 {self._path}")
            text = self._path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"keys {self._path} cannot be read ({error})") from error
        return KeyRing(text, f"keys {self._path}")


def add_key(path: str | PathLike[str], user: str) -> str:
    """Make a key for a user, and write its line to a file of keys.

    Args:
        path: The file; a new one is readable for its owner alone.
        user: The user.

    Returns:
        The key. It is nowhere kept: whoever loses it makes a new one.

    Raises:
        InputError: It cannot be the name of a user.
        ConfigError: The file cannot be written.
    """
    check_name(user, "user")
    file, key = Path(given_path(path, "the keys")), PREFIX + secrets.token_urlsafe(32)
    told = json.dumps(user) if user != user.strip() or user.startswith('"') else user
    line = f"sha256:{_digest(key).hex()} {told}\n"
    try:
        with open(os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600), "r+", encoding="utf-8") as out:
            before = out.read()
            out.write(line if not before or before.endswith("\n") else f"\n{line}")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"keys {file} cannot be written ({error}): give another file") from error
    return key


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _read(line: str, where: str) -> tuple[bytes, str]:
    found = LINE.fullmatch(line)
    if found is None:
        raise ConfigError(f"{where}: a line is sha256:HEX, one blank and the name of a user")
    user = found[2]
    try:
        if user.startswith('"'):
            user = json.loads(user)
        elif user != user.strip():
            raise ConfigError(f'{where}: blanks around the name: remove them, or write it as " name "')
        check_name(user, "user")
    except (ValueError, InputError) as error:
        raise ConfigError(f"{where}: {error}") from error
    return bytes.fromhex(found[1]), user
