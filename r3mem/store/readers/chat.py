"""Exports of chats as JSON Lines: a conversation a line, or a message a line.

::

    {"messages": [{"role": "user", "content": "Hi"}, ...]}          a conversation a line
    {"conversations": [{"from": "human", "value": "Hi"}, ...]}      the same, as ShareGPT writes it
    [{"role": "user", "content": "Hi"}, ...]                        the same, without a name
    {"role": "user", "content": "Hi"}                               a message a line: the file is one conversation
    {"text": "Hi"}                                                  a text a line
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from r3mem.errors import InputError
from r3mem.errors.no_text import HEAD, is_pdf, refusal
from r3mem.store.readers.base import Document, Reader

CONVERSATIONS = ("messages", "conversation", "conversations", "turns")
ROLES, CONTENTS = ("role", "from", "speaker"), ("content", "value", "text")
#: Characters of a line at most: what is longer is no line of an export.
LONGEST_LINE = 64 << 20


class Chat(Reader):
    """A document for each conversation; all lines are checked before the first one is given.

    What else a line has of plain values goes into the metadata. Messages without words, such as calls of tools, and
    other fields of messages are left aside, and counted.

    Args:
        characters: A longer conversation becomes several, cut between messages.
    """

    def __init__(self, characters: int = 4_000) -> None:
        self.characters = characters

    def documents(self, file: BinaryIO, name: str) -> Iterator[Document]:
        """See :class:`Reader`."""
        if not file.seekable():
            yield from list(self._documents(file, name))
            return
        for _ in self._documents(file, name):
            pass
        file.seek(0)
        yield from self._documents(file, name)

    def _documents(self, file: BinaryIO, name: str) -> Iterator[Document]:
        loose, found = list[Mapping[str, Any]](), False
        for where, line in _lines(file, name):
            found = True
            if _is_message(line):
                loose.append(line)
                continue
            if loose:
                raise InputError(f"{where} is no message, and those before are: give one kind of lines in a file")
            yield from self._of_line(line, where)
        if loose:
            yield from self._conversation(loose, {}, name)
        elif not found:
            raise InputError(f"{name} is empty: there is nothing to keep")

    def _of_line(self, line: Any, where: str) -> Iterator[Document]:
        if isinstance(line, list):
            yield from self._conversation(line, {}, where)
            return
        key = next((key for key in CONVERSATIONS if isinstance(line.get(key), list)), None)
        if key is not None:
            yield from self._conversation(line[key], _plain(line, key), where)
        elif isinstance(line.get("text"), str) and line["text"]:
            yield Document([_whole(line["text"], where)], metadata=_plain(line, "text"))
        else:
            raise InputError(
                f"{where} is no conversation: a line has messages, or role and content, or text; "
                "kept as text, the file stays as it is"
            )

    def _conversation(self, messages: list[Any], metadata: dict[str, Any], where: str) -> Iterator[Document]:
        said, aside = list[dict[str, str]](), Counter[str]()
        for number, message in enumerate(messages):
            turn = _turn(message, f"{where}, message {number}", aside)
            if turn is not None:
                said.append(turn)
        if not said:
            raise InputError(f"{where} has no message with words: leave it out")
        told = tuple(f"{count} {what}" for what, count in aside.items())
        first, size = 0, 0
        for at, turn in enumerate(said):
            length = len(turn["role"]) + len(turn["content"]) + 3
            if at > first and size + length > self.characters:
                yield Document(None, tuple(said[first:at]), {**metadata, "first_message": first}, told)
                first, size, told = at, 0, ()
            size += length
        more = {"first_message": first} if first else {}
        yield Document(None, tuple(said[first:]), {**metadata, **more}, told)


def _lines(file: BinaryIO, name: str) -> Iterator[tuple[str, Any]]:
    number = 0
    try:
        while data := file.readline(LONGEST_LINE):
            number += 1
            where = f"{name}, line {number}"
            if number == 1 and is_pdf(data[:HEAD]):
                raise InputError(refusal(name, data[:HEAD]))
            if len(data) >= LONGEST_LINE:
                raise InputError(f"{where} is longer than {LONGEST_LINE:,} bytes: is it JSON Lines?")
            try:
                text = data.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    refusal(name, data[:HEAD], data[error.start], error.start, f" of line {number}")
                ) from error
            if not text.strip():
                continue
            try:
                line = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{where} is no JSON ({error}): give a JSON value a line") from error
            if not isinstance(line, dict | list):
                raise InputError(
                    f"{where} is a {type(line).__name__}, no conversation; --as text keeps the file as it is"
                )
            yield where, line
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror or error}): check that it is whole") from error


def _is_message(line: Any) -> bool:
    return (
        isinstance(line, dict)
        and any(key in line for key in ROLES)
        and any(key in line for key in CONTENTS)
        and not any(isinstance(line.get(key), list) for key in CONVERSATIONS)
    )


def _turn(message: Any, where: str, aside: Counter[str]) -> dict[str, str] | None:
    if not isinstance(message, dict):
        raise InputError(f"{where} is a {type(message).__name__}: a message is {{'role': ..., 'content': ...}}")
    role_key = next((key for key in ROLES if key in message), None)
    key = next((key for key in CONTENTS if key in message), None)
    role = message[role_key] if role_key is not None else None
    if not isinstance(role, str) or not role:
        raise InputError(f"{where} has no role: say who spoke")
    content = _content(message[key] if key is not None else None, where, aside)
    if not content:
        aside["messages without words"] += 1
        return None
    for other in message:
        if other not in (role_key, key):
            aside[f"fields {other[:40]!a} of messages"] += 1
    return {"role": role, "content": _whole(content, where)}


def _content(given: Any, where: str, aside: Counter[str]) -> str:
    if given is None or isinstance(given, str):
        return given or ""
    if not isinstance(given, list):
        raise InputError(f"{where}: content is a string or a list of parts, not {type(given).__name__}")
    texts = list[str]()
    for part in given:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict) and isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            aside["parts of messages that are no text"] += 1
    return "".join(texts)


def _whole(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where} holds half a surrogate pair: export it again") from error
    return text


def _plain(line: Mapping[str, Any], without: str) -> dict[str, Any]:
    """Values of a line that are no lists or objects."""
    return {key: value for key, value in line.items() if key != without and not isinstance(value, dict | list)}
