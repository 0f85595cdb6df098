"""What a user gives to be kept: texts, conversations, times, metadata. Checked before anything is written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from r3mem.errors import InputError
from r3mem.store.entries import Turn
from r3mem.store.scope import check_name

#: A conversation: messages ``{"role": ..., "content": ...}`` in order.
Turns = Sequence[Mapping[str, Any]]
#: When something was said: with a time zone, or as a string of ISO 8601 with one.
Time = datetime | str | None

LONGEST_SOURCE = 4096
METADATA_BYTES = 1 << 16
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Given:
    """A text that is to be kept.

    Attributes:
        text: The text.
        raw: Its bytes in UTF-8.
        digest: SHA-256 of them.
        kind: As of `Entry`.
        turns: Of a conversation where its messages are.
    """

    text: str
    raw: bytes
    digest: str
    kind: str
    turns: tuple[Turn, ...] = ()

    @classmethod
    def of(cls, given: str | Turns, kind: str = "text") -> Given:
        """What was given as a text.

        Args:
            given: A string, or messages.
            kind: Of a string.

        Raises:
            InputError: Nothing in it, no text, or half a surrogate pair.
        """
        if isinstance(given, str):
            text, turns = given, tuple[Turn, ...]()
        elif isinstance(given, list | tuple):
            text, turns = _conversation(given)
            kind = "turns"
        else:
            raise InputError(
                f"what is kept is a str or a list of messages, not {type(given).__name__}: "
                + ("decode it first, for example data.decode()" if isinstance(given, bytes | bytearray) else
                   "give {'role': ..., 'content': ...} in a list, or a string")
            )  # fmt: skip
        if not text:
            raise InputError("the text is empty: give at least one character")
        raw = utf8(text, "the text")
        return cls(text, raw, hashlib.sha256(raw).hexdigest(), kind, turns)


def utf8(text: str, what: str) -> bytes:
    """The bytes of a string.

    Raises:
        InputError: Half a surrogate pair.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{what} holds half a surrogate pair ({text[error.start]!a} at character {error.start}): decode its "
            "source again, for example json.loads on the whole record"
        ) from error


def _conversation(messages: Turns) -> tuple[str, tuple[Turn, ...]]:
    if not messages:
        raise InputError("the conversation has no messages: give at least one")
    text, turns = "", []
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise InputError(f"message {number} is a {type(message).__name__}: give {{'role': ..., 'content': ...}}")
        role, content = message.get("role"), _content(message, number)
        if not isinstance(role, str) or "\n" in role:
            raise InputError(f"message {number}: role is the name of who spoke, not {role!r:.40}")
        check_name(role, f"role of message {number}")
        others = sorted(set(message) - {"role", "content"})
        if others:
            raise InputError(
                f"message {number}: only role and content are kept, and it has {', '.join(map(str, others))}: "
                "put what is to stay into metadata, or into the content"
            )
        text += f"{role}: " if not text else f"\n{role}: "
        turns.append(Turn(role, len(text), len(text) + len(content)))
        text += content
    return text, tuple(turns)


def _content(message: Mapping[str, Any], number: int) -> str:
    content = message.get("content")
    if isinstance(content, list | tuple):
        texts = [part.get("text") for part in content if isinstance(part, Mapping) and part.get("type") == "text"]
        if len(texts) < len(content) or not all(isinstance(text, str) for text in texts):
            raise InputError(f"message {number}: parts of content are {{'type': 'text', 'text': ...}}, nothing else")
        content = "".join(map(str, texts))
    if content is None:
        raise InputError(f"message {number} has no content: leave the message out")
    if not isinstance(content, str):
        raise InputError(f"message {number}: content is a string, not {type(content).__name__}")
    if not content:
        raise InputError(f"message {number} is empty: leave it out")
    return content


def given_time(given: Time) -> int | None:
    """Microseconds since 1970 of a time that was given; None where none was.

    Raises:
        InputError: No time, or one without a time zone.
    """
    if given is None:
        return None
    time = given
    if isinstance(time, str):
        try:
            time = datetime.fromisoformat(time.replace("Z", "+00:00") if time.endswith("Z") else time)
        except ValueError as error:
            raise InputError(f"time {given!r:.40}: give it as 2026-01-31T12:00:00+00:00") from error
    if not isinstance(time, datetime):
        raise InputError(f"time is a datetime or a string of ISO 8601, not {type(given).__name__}")
    if time.tzinfo is None:
        raise InputError(f"time {time.isoformat()} has no time zone: give one, for example +00:00")
    try:
        time.astimezone(timezone.utc)
    except OverflowError as error:
        raise InputError(f"time {time.isoformat()} is outside the years 1 to 9999 in UTC: give another") from error
    return microseconds(time)


def microseconds(time: datetime) -> int:
    """Microseconds since 1970."""
    return (time - EPOCH) // timedelta(microseconds=1)


def moment(since: int) -> datetime:
    """The time of so many microseconds since 1970, in UTC."""
    return EPOCH + timedelta(microseconds=since)


def given_metadata(given: Mapping[str, Any] | None) -> str:
    """Metadata as JSON.

    Raises:
        InputError: JSON cannot hold it, or it is too large.
    """
    if given is None:
        return "{}"
    if not isinstance(given, Mapping):
        raise InputError(f"metadata is a dict, not {type(given).__name__}")
    odd = next((key for key in given if not isinstance(key, str)), None)
    if odd is not None:
        raise InputError(f"metadata has the key {odd!r:.40}: keys are strings")
    try:
        told = json.dumps(dict(given), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"metadata cannot be kept as JSON ({error}): give numbers, strings, lists, dicts") from error
    if len(told) > METADATA_BYTES:
        raise InputError(f"metadata has {len(told):,} bytes: keep at most {METADATA_BYTES:,}, the rest is text to add")
    utf8(json.dumps(dict(given), ensure_ascii=False), "metadata")
    return told


def given_source(given: str | None) -> str | None:
    """A source that was given.

    Raises:
        InputError: No string, an empty one, one too long or with a zero character.
    """
    if given is None:
        return None
    if not isinstance(given, str) or not given:
        raise InputError(f"source is a non-empty str, not {given!r:.40}: give a path, an address, or leave it out")
    if len(given) > LONGEST_SOURCE or "\0" in given:
        raise InputError(f"source {given!r:.40} is too long or holds a zero character: give a name of the source")
    utf8(given, "source")
    return given
