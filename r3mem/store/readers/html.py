"""Pages in HTML: the words that a reader of the page sees, without markup."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import BinaryIO

from r3mem.errors import InputError
from r3mem.errors.no_text import HEAD, is_pdf, refusal
from r3mem.store.readers.base import Document, Reader
from r3mem.store.readers.text import decoded

#: Elements whose content is not shown.
UNSEEN = {"script", "style", "template", "noscript", "svg", "math", "iframe", "object"}
#: Elements that begin on a line of their own, and those with an empty line around them.
LINES = {"br", "tr", "li", "dt", "dd", "option", "figcaption", "summary", "div", "caption"}
PARAGRAPHS = {
    *("p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "table", "blockquote", "pre", "section", "article"),
    *("header", "footer", "main", "nav", "aside", "figure", "form", "hr", "address", "details", "title"),
}
CELLS = {"td", "th"}
CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?\s*([\w:.-]{1,40})", re.IGNORECASE)
# UTF-16 and UTF-32 need a byte-order mark to be told from each other; the longer ones first.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16", codecs.BOM_UTF8: "utf-8-sig",
}  # fmt: skip
BLANKS = re.compile(r"[ \t\n\r\f]+")


class Html(Reader):
    """One text: title and words, a line or an empty line where the page has one.

    The encoding is that of a byte-order mark, else the one that the page names in its first kilobyte, else UTF-8.
    """

    def documents(self, file: BinaryIO, name: str) -> Iterator[Document]:
        """See :class:`Reader`."""
        head = file.peek(HEAD)[:HEAD] if hasattr(file, "peek") else b""
        if is_pdf(head):
            raise InputError(refusal(name, head))
        yield Document(_words(decoded(file, name, encoding_of(head, name))))


def encoding_of(head: bytes, name: str) -> str:
    """The encoding of a page.

    Args:
        head: Its first bytes.
        name: What it is called in errors.

    Raises:
        InputError: It names one that is unknown.
    """
    mark = next((encoding for start, encoding in MARKS.items() if head.startswith(start)), None)
    if mark is not None:
        return mark
    found = CHARSET.search(head)
    if found is None:
        return "utf-8"
    named = found[1].decode("ascii", "replace")
    try:
        encoding = codecs.lookup(named)
    except LookupError as error:
        raise InputError(
            f"{name} says that its encoding is {named!r}, which is unknown: convert it to UTF-8"
        ) from error
    # A page that could be read so far is not in UTF-16, whatever it says (HTML standard, 13.2.3.2).
    return "utf-8" if encoding.name.startswith(("utf-16", "utf-32")) else encoding.name


def _words(pieces: Iterator[str]) -> Iterator[str]:
    page = _Page()
    for piece in pieces:
        page.feed(piece)
        yield from page.taken()
    page.close()
    yield from page.taken()


class _Page(HTMLParser):
    """Collects what is seen; blanks and breaks wait until a word follows, so that none stands at an end."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._out = list[str]()
        self._unseen: str | None = None
        self._depth = self._preformatted = 0
        self._breaks, self._blank, self._begun = 0, False, False

    def taken(self) -> Iterator[str]:
        """What was collected since the last call."""
        text, self._out = "".join(self._out), []
        if text:
            yield text

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See :class:`html.parser.HTMLParser`."""
        if self._unseen is not None:
            self._depth += tag == self._unseen
        elif tag in UNSEEN:
            self._unseen, self._depth = tag, 1
        if self._unseen is None:
            self._break(tag)
            self._preformatted += tag == "pre"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See :class:`html.parser.HTMLParser`. Only elements of SVG end themselves."""
        if self._unseen is None:
            self._break(tag)

    def handle_endtag(self, tag: str) -> None:
        """See :class:`html.parser.HTMLParser`."""
        if self._unseen is not None:
            self._depth -= tag == self._unseen
            if not self._depth:
                self._unseen = None
            return
        self._break(tag)
        self._preformatted = max(0, self._preformatted - (tag == "pre"))

    def handle_data(self, data: str) -> None:
        """See :class:`html.parser.HTMLParser`."""
        if self._unseen is not None:
            return
        if self._preformatted:
            self._write(data)
            return
        text = BLANKS.sub(" ", data)
        if text.startswith(" "):
            self._blank = True
        if words := text.strip(" "):
            self._write(words)
            self._blank = text.endswith(" ")

    def _break(self, tag: str) -> None:
        if tag in PARAGRAPHS:
            self._breaks = 2
        elif tag in LINES:
            self._breaks = max(self._breaks, 1)
        elif tag in CELLS:
            self._blank = True

    def _write(self, text: str) -> None:
        if self._begun and self._breaks:
            self._out.append("\n" * self._breaks)
        elif self._begun and self._blank:
            self._out.append(" ")
        self._out.append(text)
        self._breaks, self._blank, self._begun = 0, False, True
