"""Every verb over HTTP: what goes in comes out, word for word."""

from __future__ import annotations

import io
import json
import zipfile

import pytest

from tests.full_disk import full_disk
from tests.serve.running import Running

TEXTS = [
    "The dog of Ann is called Rex.",
    "naïve, 24 € and 漢字\0\r\n",
    " ",
    "<|im_start|>system\nOr 1=1; --",
    "a" * 5000,
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_kept_compressed_and_comes_back(server: Running, text: str) -> None:
    with server.client() as http:
        about = {"source": "mail", "session": "s", "agent": "a", "time": "2026-01-31T12:00:00+02:00"}
        added = http.post("/v1/memories", json={"text": text, "metadata": {"n": [1, None]}, **about})
        assert added.status_code == 201, added.text
        entry = added.json()
        assert entry["user"] == "ann" and entry["state"] == "pending" and entry["time"] == "2026-01-31T10:00:00+00:00"
        server.store.wait(60)
        got = http.get(f"/v1/memories/{entry['id']}").json()
        assert got["state"] == "ready" and got["metadata"] == {"n": [1, None]} and got["positions"] > 0
        assert http.get(f"/v1/memories/{entry['id']}/text").json() == {"id": entry["id"], "text": text}
        part = http.get(f"/v1/memories/{entry['id']}/text", params={"start": 0, "end": 1}).json()["text"]
        assert part == text[:1]


def test_a_conversation_and_its_turns(quiet: Running) -> None:
    turns = [{"role": "user", "content": "My dog is Rex."}, {"role": "assistant", "content": "Noted.\nRex."}]
    with quiet.client() as http:
        entry = http.post("/v1/memories", json={"turns": turns}).json()
        assert entry["kind"] == "turns" and [turn["role"] for turn in entry["turns"]] == ["user", "assistant"]
        for number, turn in enumerate(turns):
            text = http.get(f"/v1/memories/{entry['id']}/text", params={"turn": number}).json()["text"]
            assert text == turn["content"]


def test_pages_have_all_entries_once(quiet: Running) -> None:
    with quiet.client() as http:
        ids = [http.post("/v1/memories", json={"text": f"note {i}"}).json()["id"] for i in range(7)]
        found, after = list[str](), None
        while True:
            page = http.get("/v1/memories", params={"limit": 3, **({"after": after} if after else {})}).json()
            assert page["total"] == 7
            found += [entry["id"] for entry in page["entries"]]
            after = page["next"]
            if after is None:
                break
        assert found == ids
        assert http.get("/v1/memories", params={"limit": 5000}).status_code == 422


def test_search_finds_and_gives_the_texts_where_asked_to(quiet: Running) -> None:
    with quiet.client() as http:
        for text in ["Rex is a dog.", "Mia is a cat.", "The dog barks."]:
            http.post("/v1/memories", json={"text": text, "session": text[0]})
        hits = http.post("/v1/search", json={"query": "dog"}).json()["hits"]
        assert {hit["text"] for hit in hits} == {"Rex is a dog.", "The dog barks."}
        assert [hit["rank"] for hit in hits] == [1, 2]
        bare = http.post("/v1/search", json={"query": "dog", "text": False, "session": "R", "k": 1}).json()["hits"]
        assert len(bare) == 1 and "text" not in bare[0] and bare[0]["entry"]["session"] == "R"
        assert http.post("/v1/search", json={"query": "dog", "k": 101}).status_code == 422
        assert http.post("/v1/search", json={"query": 'dog" OR (*'}).status_code == 200


def test_an_update_is_a_new_version_and_the_old_one_stays(quiet: Running) -> None:
    with quiet.client() as http:
        id = http.post("/v1/memories", json={"text": "Ann lives in Bonn."}).json()["id"]
        new = http.put(f"/v1/memories/{id}", json={"text": "Ann lives in Cologne."}).json()
        assert new["version"] == 2 and new["id"] == id
        assert http.get(f"/v1/memories/{id}/text").json()["text"] == "Ann lives in Cologne."
        assert http.get(f"/v1/memories/{id}/text", params={"version": 1}).json()["text"] == "Ann lives in Bonn."
        told = http.get(f"/v1/memories/{id}/history").json()
        assert [(each["number"], each["why"]) for each in told] == [(1, "added"), (2, "updated")]


def test_what_is_deleted_is_gone_and_all_of_it_only_on_demand(quiet: Running) -> None:
    with quiet.client() as http, quiet.client("key-of-bob") as bob:
        ids = [
            http.post("/v1/memories", json={"text": f"secret {i}", "session": str(i % 2)}).json()["id"]
            for i in range(5)
        ]
        theirs = bob.post("/v1/memories", json={"text": "secret of Bob"}).json()["id"]
        assert http.delete(f"/v1/memories/{ids[0]}").json() == {"deleted": 1}
        assert http.get(f"/v1/memories/{ids[0]}/text").status_code == 404
        # An id that was left out, with and without the line at the end.
        assert http.delete("/v1/memories/").status_code == 404
        assert http.delete("/v1/memories").status_code == 422
        assert http.get("/v1/memories").json()["total"] == 4
        assert http.delete("/v1/memories", params={"all": True, "session": "1"}).json() == {"deleted": 2}
        assert http.delete("/v1/memories", params={"all": True}).json() == {"deleted": 2}
        assert http.post("/v1/search", json={"query": "secret"}).json() == {"hits": []}
        assert bob.get(f"/v1/memories/{theirs}/text").json()["text"] == "secret of Bob"


def test_bytes_that_are_left_are_told_with_the_reason(quiet: Running) -> None:
    with quiet.client() as http:
        for i in range(40):
            http.post("/v1/memories", json={"text": f"{i} " + "long text " * 2_000})
        id = http.post("/v1/memories", json={"text": "secret", "source": "chat"}).json()["id"]
        assert http.get("/v1/memories", params={"source": "chat"}).json()["total"] == 1
        # Erasing cuts the log to nothing, so that the next deletion has room in it, and the file written anew has not.
        gone = http.post("/v1/memories", json={"text": "gone"}).json()["id"]
        assert http.delete(f"/v1/memories/{gone}").json() == {"deleted": 1}
        with full_disk(500_000):
            told = http.delete(f"/v1/memories/{id}").json()
        assert told["deleted"] == 1 and told["unerased"].startswith("the disk is full")
        assert http.get("/v1/stats").json()["unerased_why"] == told["unerased"]
        assert http.delete("/v1/memories", params={"all": True}).json() == {"deleted": 40}


def test_a_file_becomes_entries_that_are_the_file(quiet: Running) -> None:
    text = "".join(f"Paragraph {i}, naïve 漢字.\r\n\r\n" for i in range(300))
    about = {"session": "s", "characters": "500", "metadata": '{"page": 3}'}
    with quiet.client() as http:
        got = http.post("/v1/files", files={"file": ("notes.txt", text.encode())}, data=about)
        assert got.status_code == 201, got.text
        entries = got.json()["entries"]
        assert len(entries) > 10 and {entry["source"] for entry in entries} == {"notes.txt"}
        assert entries[0]["metadata"] == {"page": 3} and entries[0]["session"] == "s"
        texts = [http.get(f"/v1/memories/{entry['id']}/text").json()["text"] for entry in entries]
        assert "".join(texts) == text
        assert [entry["end"] for entry in entries[:-1]] == [entry["start"] for entry in entries[1:]]


def test_consolidated_memories_and_stats(server: Running) -> None:
    with server.client() as http:
        ids = [
            http.post("/v1/memories", json={"text": f"Old note {i}.", "session": "s"}).json()["id"] for i in range(6)
        ]
        server.store.wait(60)
        assert http.post("/v1/consolidate", json={}).status_code == 200
        for i, id in enumerate(ids):
            assert http.get(f"/v1/memories/{id}/text").json()["text"] == f"Old note {i}."
        told = http.get("/v1/stats").json()
        assert told["entries"] >= 6 and told["users"] == 1 and told["disk_bytes"] == 0


def test_an_export_is_read_without_us(server: Running) -> None:
    with server.client() as http, server.client("key-of-bob") as bob:
        http.post("/v1/memories", json={"text": "Rex is a dog."})
        bob.post("/v1/memories", json={"text": "Mia is a cat."})
        server.store.wait(60)
        got = http.get("/v1/export")
        assert got.headers["content-type"] == "application/zip"
        with zipfile.ZipFile(io.BytesIO(got.content)) as told:
            (line,) = told.read("entries.jsonl").splitlines()
            assert json.loads(line)["versions"][0]["text"] == "Rex is a dog."
            assert any(name.endswith(".safetensors") for name in told.namelist())


def test_the_interface_is_described(server: Running) -> None:
    with server.client(None) as http:
        assert http.get("/docs").status_code == 200
        told = http.get("/openapi.json").json()
    paths = {f"{method.upper()} {path}" for path, methods in told["paths"].items() for method in methods}
    assert paths == {
        "POST /v1/memories", "GET /v1/memories", "DELETE /v1/memories", "GET /v1/memories/{id}",
        "PUT /v1/memories/{id}",
        "DELETE /v1/memories/{id}", "GET /v1/memories/{id}/text", "GET /v1/memories/{id}/history", "POST /v1/search",
        "POST /v1/files", "POST /v1/consolidate", "GET /v1/stats", "GET /v1/export", "GET /health", "GET /ready",
        "GET /metrics",
    }  # fmt: skip
    add = told["paths"]["/v1/memories"]["post"]
    assert add["security"] == [{"HTTPBearer": []}] and "413" in add["responses"] and "Entry" in json.dumps(add)


def test_health_and_metrics(server: Running) -> None:
    with server.client(None) as anybody, server.client() as http:
        assert anybody.get("/health").json()["status"] == "ok"
        assert anybody.get("/ready").json()["status"] == "ready"
        assert anybody.get("/metrics").status_code == 401
        id = http.post("/v1/memories", json={"text": "a secret"}).json()["id"]
        http.get(f"/v1/memories/{id}")
        http.get(f"/v1/memories/{id[:-1]}")
        server.store.wait(60)
        got = http.get("/metrics")
    assert got.headers["content-type"].startswith("text/plain")
    lines = got.text.splitlines()
    assert 'r3mem_requests_total{method="GET",route="/v1/memories/{id}",status="200"} 1.0' in lines
    assert 'r3mem_requests_total{method="GET",route="/v1/memories/{id}",status="404"} 1.0' in lines
    assert "r3mem_store_entries 1.0" in lines and "r3mem_store_pending 0.0" in lines
    assert 'r3mem_calls_waiting{kind="model"} 0.0' in lines
    assert id[:-1] not in got.text and "ann" not in got.text and "secret" not in got.text
