"""What cannot be processed is refused with a sentence, what is too large unread, and nothing is left of either."""

from __future__ import annotations

import json
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from r3mem.serve import Limits
from tests.serve.running import Running

SMALL = Limits(body_bytes=10_000, upload_bytes=100_000, upload_seconds=2)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "give one of text and turns"),
        ({"text": "a", "turns": []}, "give one of text and turns"),
        ({"text": ""}, "empty"),
        ({"text": None}, "give one of text and turns"),
        ({"text": 3}, "text: Input should be a valid string"),
        ({"turns": []}, "no messages"),
        ({"turns": [{"role": "user", "content": None}]}, "message 0 has no content"),
        ({"turns": [{"role": "user", "content": ""}]}, "message 0 is empty"),
        ({"turns": ["hello"]}, "turns.0"),
        ({"text": "a", "time": "yesterday"}, "give it as 2026"),
        ({"text": "a", "time": "2026-01-01T00:00:00"}, "time zone"),
        ({"text": "a", "session": ""}, "session is empty"),
        ({"text": "a", "agent": "a" * 300}, "300 characters"),
        ({"text": "a", "session": "\0"}, "control character"),
        ({"text": "a", "metadata": []}, "metadata"),
        ({"text": "a", "metadata": {"a": "b" * 70_000}}, "metadata has"),
        ({"text": "a", "wrong": 1}, "wrong: Extra inputs"),
    ],
)
def test_a_request_that_is_wrong_is_told_what_is_wrong(server: Running, given: dict[str, Any], said: str) -> None:
    with server.client() as http:
        got = http.post("/v1/memories", json=given)
        assert got.status_code == 422 and got.json()["error"] == "bad_input" and said in got.json()["message"], got.text
        assert http.get("/v1/memories").json()["total"] == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe",
        b'"text"',
        b'{"text": "\\ud800"}',
        b'{"text": "a", "metadata": {"n": NaN}}',
        b"[" * 9_000,
    ],
)
def test_a_body_that_is_none_is_refused(server: Running, body: bytes) -> None:
    with server.client() as http:
        got = http.post("/v1/memories", content=body, headers={"Content-Type": "application/json"})
        assert got.status_code in (400, 422), got.text
        assert got.json()["message"] and http.get("/v1/memories").json()["total"] == 0


def test_pages_and_parts_that_are_not_there(server: Running) -> None:
    with server.client() as http:
        id = http.post("/v1/memories", json={"text": "abc"}).json()["id"]
        assert http.get("/v1/memories", params={"after": "1-" + "f" * 32}).json()["entries"] != []
        beyond = http.get("/v1/memories", params={"after": "9" * 17 + "-" + "f" * 32}).json()
        assert beyond == {"entries": [], "next": None, "total": 1}
        for wrong in ({"after": "x"}, {"limit": 0}, {"limit": -1}, {"limit": "x"}, {"limit": 10**30}):
            assert http.get("/v1/memories", params=wrong).status_code == 422
        for wrong in (
            {"start": 4},
            {"end": -1},
            {"turn": 0},
            {"node": 0, "turn": 0},
            {"version": 2},
            {"version": 10**30},
        ):
            assert http.get(f"/v1/memories/{id}/text", params=wrong).status_code in (404, 422), wrong


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/memory", "/v1/memories/", "/v2/memories", "/docs/x", "//v1/memories"]
)
def test_addresses_that_there_are_not(server: Running, path: str) -> None:
    with server.client() as http:
        got = http.get(path)
        assert got.status_code == 404 and "/docs lists what there is" in got.json()["message"]
        assert http.patch("/v1/memories").status_code == 405


def test_a_request_over_the_limit_is_refused_unread(start: Callable[..., Running]) -> None:
    server = start(limits=SMALL)
    with server.client() as http:
        assert http.post("/v1/memories", json={"text": "a" * 9_900}).status_code == 201
        for got in (
            http.post("/v1/memories", json={"text": "a" * 10_001}),
            http.post("/v1/memories", content=iter([b'{"text": "', *[b"a" * 1000] * 20, b'"}'])),
            http.post("/mcp", content=iter([b"a" * 1000] * 20), headers={"Content-Type": "application/json"}),
        ):
            assert got.status_code == 413 and "as a file" in got.json()["message"]
        assert http.get("/v1/memories").json()["total"] == 1


def test_a_file_over_the_limit_is_refused_and_leaves_nothing(start: Callable[..., Running], temporary: Path) -> None:
    server = start(limits=SMALL)
    with server.client() as http:
        assert http.post("/v1/files", files={"file": ("a.txt", b"a b " * 25_000)}).status_code == 201
        before = http.get("/v1/memories").json()["total"]
        assert http.post("/v1/files", files={"file": ("a.txt", b"a" * 100_001)}).status_code == 413
        huge = http.post("/v1/files", files={"file": ("a.txt", b"a" * 5_000_000)})
        assert huge.status_code == 413 and "100,000 bytes" in huge.json()["message"]
        streamed = http.post(
            "/v1/files", content=_form(b"a" * 1000, 1000), headers={"Content-Type": "multipart/form-data; boundary=x"}
        )
        assert streamed.status_code == 413
        assert http.get("/v1/memories").json()["total"] == before
    assert list(temporary.iterdir()) == []


def _form(piece: bytes, times: int) -> Iterator[bytes]:
    yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
    for _ in range(times):
        yield piece
    yield b"\r\n--x--\r\n"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where files of no name and of a short life are, of which nothing may stay."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize(
    ("files", "data", "said"),
    [
        ({"file": ("a.png", b"\x89PNG\r\n\x1a\n\0\0")}, {}, "a.png is a picture"),
        ({"file": ("a.pdf", b"%PDF-1.7\n")}, {}, "a.pdf is a PDF"),
        ({"file": ("a.bin", bytes(range(256)))}, {}, "a.bin"),
        ({"file": ("a.txt", b"na\xefve")}, {}, "iconv"),
        ({"file": ("a.txt", b"a\0b")}, {}, "zero bytes"),
        ({"file": ("a.txt", b"")}, {}, "empty"),
        ({"other": ("a.txt", b"a")}, {}, "the form has other"),
        ({"file": ("a.txt", b"a")}, {"user": "bob"}, "the form has user"),
        ({"file": ("a.txt", b"a")}, {"metadata": "{"}, "metadata is not JSON"),
        ({"file": ("a.txt", b"a")}, {"metadata": "[1]"}, "metadata is a dict"),
        ({"file": ("a.txt", b"a")}, {"characters": "many"}, "characters"),
        ({"file": ("a.txt", b"a")}, {"characters": "3"}, "characters"),
        ({"file": ("a.txt", b"a"), "session": ("b.txt", b"b")}, {}, ""),
        ({"session": (None, b"a")}, {}, "the form has no file"),
    ],
)
def test_files_that_are_no_texts(server: Running, files: Any, data: dict[str, str], said: str) -> None:
    with server.client() as http:
        got = http.post("/v1/files", files=files, data=data)
        assert got.status_code in (400, 422) and said in got.json()["message"], got.text
        assert str(tempfile.gettempdir()) not in got.text
        assert http.get("/v1/memories").json()["total"] == 0
        assert http.post("/v1/files", content=b"a").status_code == 415
        assert http.post("/v1/files", content=b"a", headers={"Content-Type": "multipart/form-data"}).status_code == 400


def raw(server: Running, head: str) -> socket.socket:
    """A connection on which a request begins."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.sendall((head + f"\r\nHost: {host}\r\nAuthorization: Bearer key-of-ann\r\n\r\n").encode())
    return connection


def counts(http: httpx.Client, line: str) -> bool:
    return any(told.startswith(line) for told in http.get("/metrics").text.splitlines())


def test_a_client_that_breaks_off_in_the_middle_leaves_nothing(server: Running, temporary: Path) -> None:
    with server.client() as http:
        for head in (
            "POST /v1/files HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 9000000",
            "POST /v1/files HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=x\r\nTransfer-Encoding: chunked",
            "POST /v1/memories HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 100000",
        ):
            connection = raw(server, head)
            piece = next(_form(b"", 0)) + b"a text " * 300_000 if "files" in head else b'{"text": "half a t'
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece) if "chunked" in head else piece)
            time.sleep(0.2)
            connection.close()
        assert http.post("/v1/memories", json={"text": "whole"}).status_code == 201
        until = time.monotonic() + 20
        while (
            not counts(http, 'r3mem_requests_total{method="POST",route="/v1/files",status="4')
            and time.monotonic() < until
        ):
            time.sleep(0.05)
        assert [entry["bytes"] for entry in http.get("/v1/memories").json()["entries"]] == [5]
        assert counts(http, 'r3mem_calls_working{kind="upload"} 0.0')
    assert list(temporary.iterdir()) == []


def test_a_file_that_comes_too_slowly_is_given_up(start: Callable[..., Running]) -> None:
    server = start(limits=SMALL)
    head = "POST /v1/files HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 9000"
    with raw(server, head) as connection:
        connection.sendall(next(_form(b"", 0)))
        told = b"".join(iter(lambda: connection.recv(10_000), b"")).decode()
    assert told.startswith("HTTP/1.1 408") and "after 2 s" in told


def emptied(folder: Path) -> bool:
    """Whether a folder is empty within half a minute: it is emptied behind the last byte of an answer."""
    until = time.monotonic() + 30
    while list(folder.iterdir()) and time.monotonic() < until:
        time.sleep(0.05)
    return not list(folder.iterdir())


def test_a_client_that_leaves_while_it_is_answered_leaves_no_export(server: Running, temporary: Path) -> None:
    with server.client() as http:
        for i in range(8):
            http.post("/v1/memories", json={"text": f"{i} a text of some length"})
        server.store.wait(120)
        raw(server, "GET /v1/export HTTP/1.1").close()
        assert emptied(temporary)
        assert http.get("/v1/export").status_code == 200
    assert emptied(temporary)


def test_a_damaged_memory_is_named_and_the_others_are_served(server: Running, tmp_path: Path) -> None:
    import sqlite3

    with server.client() as http:
        whole = http.post("/v1/memories", json={"text": "A dog that is whole."}).json()["id"]
        broken = http.post("/v1/memories", json={"text": "A dog that is broken."}).json()["id"]
        server.store.wait(60)
        digest = http.get(f"/v1/memories/{broken}").json()["digest"]
        with sqlite3.connect(tmp_path / "memory.db") as connection:
            connection.execute(
                "UPDATE r3mem_blobs SET data = zeroblob(length(data)) "
                "WHERE content = (SELECT n FROM r3mem_contents WHERE digest = ?)",
                (digest,),
            )
        got = http.get(f"/v1/memories/{broken}/text")
        assert got.status_code == 500 and got.json()["error"] == "damaged" and "report failure" in got.json()["message"]
        assert str(tmp_path) not in got.text
        hits = {hit["entry"]["id"]: hit for hit in http.post("/v1/search", json={"query": "dog"}).json()["hits"]}
        assert hits[whole]["text"] == "A dog that is whole."
        assert hits[broken]["text"] is None and "cannot be given back" in hits[broken]["problem"]


def test_answers_are_json_and_name_no_software(server: Running) -> None:
    with server.client() as http:
        got = http.get("/v1/memories/none")
        assert json.loads(got.text)["error"] == "not_found" and "r3mem" not in str(got.headers)
