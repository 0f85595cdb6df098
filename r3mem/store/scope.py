"""Whose memories a call is about: a user, and within a user's memories an agent and a session."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from r3mem.errors import InputError

#: Characters of a name at most.
LONGEST_NAME = 256


@dataclass(frozen=True)
class Scope:
    """A user, and what narrows a call down. Names are compared exactly: case and blanks count.

    Attributes:
        user: The user.
        agent: Only what this agent added; None for all of the user.
        session: Only what was added in this session; None for all of the user.
    """

    user: str
    agent: str | None = None
    session: str | None = None

    @classmethod
    def of(cls, user: str, agent: str | None = None, session: str | None = None) -> Scope:
        """A scope of names that were given.

        Raises:
            InputError: A name is empty, too long, has control characters or is no string.
        """
        check_name(user, "user")
        for name, what in ((agent, "agent"), (session, "session")):
            if name is not None:
                check_name(name, what)
        return cls(user, agent, session)


def check_name(name: object, what: str) -> None:
    """Refuse what cannot be a name.

    Args:
        name: What was given.
        what: ``user``, ``agent`` or ``session``.

    Raises:
        InputError: It is no string, empty, longer than 256 characters or has characters that cannot be seen or kept.
    """
    if not isinstance(name, str):
        raise InputError(f"{what} is a str, not {type(name).__name__}: give the name of the {what}")
    if not name:
        raise InputError(f"{what} is empty: give the name of the {what}")
    if len(name) > LONGEST_NAME:
        raise InputError(f"{what} has {len(name)} characters: give a name of at most {LONGEST_NAME}")
    odd = next((i for i, char in enumerate(name) if unicodedata.category(char) in ("Cc", "Cs")), None)
    if odd is not None:
        raise InputError(f"{what} {name!a:.40} has a control character at place {odd}: leave it out")
