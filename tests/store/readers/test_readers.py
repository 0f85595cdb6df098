"""Files of every kind, and what is said of those that are damaged or of another kind."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from r3mem import InputError
from r3mem.store.readers import Document, read
from tests.store.readers.pdf_files import pdf_of


def documents(data: bytes, name: str, kind: str | None = None, **options: Any) -> list[tuple[str, Document]]:
    """What a file gives: each document, its pieces joined."""
    given = io.BufferedReader(io.BytesIO(data))  # type: ignore[arg-type]
    return [("".join(d.pieces or ()), d) for d in read(given, name, kind, **options)]


def text(data: bytes, name: str, kind: str | None = None) -> str:
    ((found, _),) = documents(data, name, kind)
    return found


def lines(*values: Any) -> bytes:
    return "".join(json.dumps(value) + "\n" for value in values).encode()


def test_a_text_is_kept_character_for_character() -> None:
    told = "\ufeffnaïve\r\n\t漢字 <b>&amp;</b>\n\n"
    assert text(told.encode(), "a.md") == told and text(told.encode(), "no-ending") == told
    # A character may lie across what is read at a time.
    long = "a" + "漢" * 800_000
    assert text(long.encode(), "long.txt") == long


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (b"<title>T &amp; x</title><h1>H  i</h1><p>a <b>b</b>c\n d</p>", "T & x\n\nH i\n\na bc d"),
        (b"<head><style>p{}</style><script>if (a<b) 1</script></head>seen", "seen"),
        (b"<head><title>T</title><p>no end of head", "T\n\nno end of head"),
        (b"<ul><li>1<li>2</ul><table><tr><td>a<td>b<tr><td>c</table>", "1\n2\n\na b\nc"),
        (b"<pre>  k\n   l</pre>m<br>n<!-- x -->", "  k\n   l\n\nm\nn"),
        (b"<svg><svg>x</svg>y</svg>z", "z"),
        ('<meta charset="iso-8859-1">caf\xe9'.encode("latin-1"), "café"),
        ("<p>café".encode("utf-16"), "café"),
        ("<meta charset=utf-16><p>café".encode(), "café"),
        (b"a < b &lt; c &zzz; &#x41;", "a < b < c &zzz; A"),
    ],
)
def test_of_a_page_the_words_are_kept(page: bytes, words: str) -> None:
    assert text(page, "page.HTML") == words


def test_a_page_is_kept_as_it_is_if_asked_for() -> None:
    assert text(b"<p>a", "page.html", "text") == "<p>a" and text(b"<p>a", "page.txt", "html") == "a"


def test_a_pdf_page_by_page(tmp_path: Path) -> None:
    data = pdf_of("The dog is called Rex.", "", "A second page.")
    ((found, document),) = documents(data, "a.pdf")
    assert found == "The dog is called Rex.\n\nA second page." and document.metadata == {"pages": 3}
    # It is told by what it begins with, too.
    (tmp_path / "without-ending").write_bytes(data)
    assert "Rex" in "".join(next(iter(read(tmp_path / "without-ending", "x"))).pieces or ())


MESSAGES = [{"role": "user", "content": "Where is <|im_end|>?"}, {"role": "assistant", "content": "Here."}]


@pytest.mark.parametrize(
    "data",
    [
        lines({"messages": MESSAGES}),
        lines(MESSAGES),
        lines(*MESSAGES),
        b"\xef\xbb\xbf" + lines({"conversations": [{"from": m["role"], "value": m["content"]} for m in MESSAGES]}),
        lines(
            {"messages": [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in MESSAGES]}
        ),
        b"\n" + lines({"messages": MESSAGES}) + b"\n  \n",
    ],
)
def test_a_chat_in_every_form(data: bytes) -> None:
    ((_, document),) = documents(data, "chat.jsonl")
    assert list(document.turns) == MESSAGES and document.pieces is None and document.left_aside == ()


def test_what_a_chat_leaves_aside_is_counted() -> None:
    calls = [*MESSAGES, {"role": "assistant", "content": None, "tool_calls": []}, {"role": "tool", "content": ""}]
    named = [{**MESSAGES[0], "name": "ann"}]
    found = documents(lines({"id": 7, "title": "t", "tags": ["x"], "messages": calls}, {"messages": named}), "c.jsonl")
    assert [d.left_aside for _, d in found] == [("2 messages without words",), ("1 fields 'name' of messages",)]
    assert found[0][1].metadata == {"id": 7, "title": "t"} and len(found[0][1].turns) == 2


def test_lines_with_a_text_and_a_long_conversation() -> None:
    found = documents(lines({"text": "one", "n": 1}, {"text": "two"}), "c.jsonl")
    assert [t for t, _ in found] == ["one", "two"] and found[0][1].metadata == {"n": 1}
    long = [{"role": "u", "content": f"{i} " + "x" * 40} for i in range(10)]
    cut = documents(lines({"messages": long, "id": 1}), "c.jsonl", characters=100)
    assert [turn for _, d in cut for turn in d.turns] == long and len(cut) == 5
    assert [d.metadata for _, d in cut[:2]] == [{"id": 1, "first_message": n} for n in (0, 2)]


@pytest.mark.parametrize(
    ("data", "name", "says"),
    [
        (b"\x89PNG\r\n\x1a\n\0", "a.txt", "a.txt is a picture"),
        (b"ab\xff", "a.txt", "byte 0xff at byte offset 2 is not UTF-8"),
        (b"ab\0c", "a.txt", "holds zero bytes"),
        (b"PK\x03\x04\xff", "a.html", "is an archive"),
        (b"<meta charset=klingon>", "a.html", "encoding is 'klingon', which is unknown"),
        (b"%PDF-1.4 nothing", "a.pdf", "cannot be read as a PDF"),
        (b"no pdf", "a.pdf", "cannot be read as a PDF"),
        (pdf_of("", ""), "a.pdf", "holds no text, only pictures or nothing"),
        (b"", "a.jsonl", "is empty"),
        (b"{}\n", "a.jsonl", "line 1 is no conversation"),
        (b"3\n", "a.jsonl", "line 1 is a int, no conversation"),
        (lines({"messages": MESSAGES}) + b"{broken\n", "a.jsonl", "line 2 is no JSON"),
        (lines({"messages": MESSAGES}) + b'{"a": "\xff"}\n', "a.jsonl", "of line 2 is not UTF-8"),
        (lines({"messages": []}), "a.jsonl", "has no message with words"),
        (lines({"messages": [{"content": "x"}]}), "a.jsonl", "message 0 has no role"),
        (lines({"messages": ["x"]}), "a.jsonl", "message 0 is a str"),
        (lines({"messages": [{"role": "u", "content": 3}]}), "a.jsonl", "not int"),
        (lines({"messages": [{"role": "u", "content": "\ud800"}]}), "a.jsonl", "half a surrogate pair"),
        (lines(MESSAGES[0], {"text": "x"}), "a.jsonl", "line 2 is no message"),
        (b"[" * 100_000, "a.jsonl", "line 1 is no JSON"),
    ],
)
def test_what_cannot_be_read_is_told_before_anything_is_given(data: bytes, name: str, says: str) -> None:
    with pytest.raises(InputError) as told:
        documents(data, name)
    assert says in str(told.value) and name in str(told.value)


def test_files_that_are_not_there_or_no_files(tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            list(read(path, str(path)))
    with pytest.raises(InputError, match="give one of text, html, pdf, chat"):
        documents(b"x", "a.txt", "docx")
