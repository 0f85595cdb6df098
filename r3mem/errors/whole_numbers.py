"""Counts and indices that a user gives: whole numbers, or a word about it."""

from __future__ import annotations

from numbers import Integral

from r3mem.errors import ConfigError, InputError, R3MemError


def whole_number(given: object, name: str, least: int | None = None, error: type[R3MemError] = InputError) -> int:
    """A number that a user gave as a count or an index of a call.

    Args:
        given: The number.
        name: What it is called in the error.
        least: The smallest that is possible; None where the caller says so itself.
        error: What is raised.

    Raises:
        InputError: It is not a whole number, or too small; another class where ``error`` says so.
    """
    if not is_whole(given):
        raise error(f"{name} {given!r} is not possible: give a whole number")
    number = int(given)  # type: ignore[call-overload]
    if least is not None and number < least:
        raise error(f"{name} {number} is not possible: give at least {least}")
    return int(number)


def whole_setting(given: object, name: str, least: int | None = None) -> int:
    """:func:`whole_number` for what a part of a model is made with; it raises `ConfigError`."""
    return whole_number(given, name, least, ConfigError)


def check_whole(**settings: object) -> None:
    """Refuse settings that are not whole numbers.

    Args:
        **settings: By name.

    Raises:
        ConfigError: One is not; the message says which.
    """
    for name, given in settings.items():
        whole_setting(given, name)


def is_whole(given: object) -> bool:
    """Whether something is a whole number; a truth value is none.

    Args:
        given: Anything.
    """
    return isinstance(given, Integral) and not isinstance(given, bool)
