"""Texts in UTF-8: Markdown, plain text, sources of programs. They are kept character for character."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import BinaryIO

from r3mem.errors import InputError
from r3mem.errors.no_text import HEAD, is_pdf, refusal
from r3mem.store.readers.base import Document, Reader

READ_BYTES = 1 << 20


class Text(Reader):
    """One text, which is the file; line ends and a byte-order mark too."""

    def documents(self, file: BinaryIO, name: str) -> Iterator[Document]:
        """See :class:`Reader`."""
        yield Document(decoded(file, name))


def decoded(file: BinaryIO, name: str, encoding: str = "utf-8") -> Iterator[str]:
    """The text of a file, piece by piece.

    Args:
        file: Open for reading, at its beginning.
        name: What it is called in errors.
        encoding: Its encoding.

    Raises:
        InputError: It cannot be read, or is no text in that encoding; the message has the offset.
    """
    decoder, offset, head = codecs.getincrementaldecoder(encoding)(), 0, b""
    while True:
        try:
            data = file.read(READ_BYTES)
        except OSError as error:
            raise InputError(f"{name} cannot be read ({error.strerror or error}): check that it is whole") from error
        if not offset:
            head = data[:HEAD]
            if is_pdf(head):
                raise InputError(refusal(name, head))
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            # The decoder held back the first bytes of a character, which count.
            at = offset - (len(error.object) - len(data)) + error.start
            if encoding != "utf-8":
                raise InputError(f"{name}: what stands at byte offset {at} is not {encoding}: convert it") from error
            raise InputError(refusal(name, head, error.object[error.start], at)) from error
        if "\0" in text:
            raise InputError(f"{name} holds zero bytes and is no text: convert it to text in UTF-8 first")
        offset += len(data)
        if text:
            yield text
        if not data:
            return
