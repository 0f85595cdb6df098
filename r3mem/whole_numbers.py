"""Counts and indices that a user gives: whole numbers, or a word about it."""

from __future__ import annotations

from numbers import Integral

from r3mem.errors import ConfigError, InputError


def whole_number(given: object, name: str) -> int:
    """A number that a user gave as a count or an index of a call.

    Args:
        given: The number.
        name: What it is called in the error.

    Raises:
        InputError: It is not a whole number.
    """
    if not _is_whole(given):
        raise InputError(_refusal(given, name))
    return int(given)  # type: ignore[call-overload, no-any-return]


def whole_setting(given: object, name: str, least: int | None = None) -> int:
    """A whole number that a part of a model is made with.

    Args:
        given: The number.
        name: What it is called in the error.
        least: The smallest that is possible; None where the caller says so itself.

    Raises:
        ConfigError: It is not a whole number, or too small.
    """
    if not _is_whole(given):
        raise ConfigError(_refusal(given, name))
    number = int(given)  # type: ignore[call-overload]
    if least is not None and number < least:
        raise ConfigError(f"{name} {number} is not possible: give at least {least}")
    return int(number)


def check_whole(**settings: object) -> None:
    """Refuse settings that are not whole numbers.

    Args:
        **settings: By name.

    Raises:
        ConfigError: One is not; the message says which.
    """
    for name, given in settings.items():
        whole_setting(given, name)


def _is_whole(given: object) -> bool:
    return isinstance(given, Integral) and not isinstance(given, bool)


def _refusal(given: object, name: str) -> str:
    return f"{name} {given!r} is not possible: give a whole number"
