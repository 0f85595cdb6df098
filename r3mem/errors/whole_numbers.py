"""Counts and indices that a user gives: whole numbers, or a word about it."""

from __future__ import annotations

from numbers import Integral

from r3mem.errors import ConfigError, InputError


def whole_number(given: object, name: str, least: int | None = None) -> int:
    """A number that a user gave as a count or an index of a call.

    Args:
        given: The number.
        name: What it is called in the error.
        least: The smallest that is possible; None where the caller says so itself.

    Raises:
        InputError: It is not a whole number, or too small.
    """
    return _checked(given, name, least, InputError)


def whole_setting(given: object, name: str, least: int | None = None) -> int:
    """A whole number that a part of a model is made with.

    Args:
        given: The number.
        name: What it is called in the error.
        least: The smallest that is possible; None where the caller says so itself.

    Raises:
        ConfigError: It is not a whole number, or too small.
    """
    return _checked(given, name, least, ConfigError)


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


def _checked(given: object, name: str, least: int | None, error: type[InputError] | type[ConfigError]) -> int:
    if not is_whole(given):
        raise error(f"{name} {given!r} is not possible: give a whole number")
    number = int(given)  # type: ignore[call-overload]
    if least is not None and number < least:
        raise error(f"{name} {number} is not possible: give at least {least}")
    return int(number)
