"""A key shows what is its user's, and nothing else; who has none sees nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from r3mem.serve import KeyFile, Limits, OneUser, add_key
from tests.serve.running import USERS, Running, lines


def every_way(http: httpx.Client, id: str) -> list[httpx.Response]:
    """Whatever can be asked about one entry."""
    at = f"/v1/memories/{id}"
    return [
        http.get(at),
        http.get(f"{at}/text"),
        http.get(f"{at}/text", params={"version": 1}),
        http.get(f"{at}/text", params={"node": 0}),
        http.get(f"{at}/history"),
        http.put(at, json={"text": "mine now"}),
        http.delete(at),
    ]


def test_unknown_deleted_and_another_users_are_the_same_answer(server: Running) -> None:
    with server.client() as ann, server.client("key-of-bob") as bob:
        deleted = bob.post("/v1/memories", json={"text": "was mine"}).json()["id"]
        bob.delete(f"/v1/memories/{deleted}")
        hers = ann.post("/v1/memories", json={"text": "a secret of Ann"}).json()["id"]
        unknown = "0" * 32
        answers = {id: every_way(bob, id) for id in (unknown, deleted, hers)}
        for same in zip(*answers.values(), strict=True):
            assert {response.status_code for response in same} == {404}
            bodies = {r.text.replace(id, "ID") for r, id in zip(same, answers, strict=True)}
            assert len(bodies) == 1 and "list gives the ids" in bodies.pop()
            kinds = {tuple(sorted(set(r.headers) - {"date"})) for r in same}
            assert len(kinds) == 1
        assert ann.get(f"/v1/memories/{hers}/text").json()["text"] == "a secret of Ann"
        assert len(ann.get(f"/v1/memories/{hers}/history").json()) == 1


@pytest.mark.parametrize(
    "id", ["1", "%", "*", "' OR 1=1 --", "..%2F..%2Fetc%2Fpasswd", "%00", "a" * 4000, "漢字", "%F0%9F%92%A9"]
)
def test_ids_that_are_guessed_find_nothing(server: Running, id: str) -> None:
    with server.client() as ann, server.client("key-of-bob") as bob:
        hers = ann.post("/v1/memories", json={"text": "a secret of Ann"}).json()["id"]
        assert {response.status_code for response in every_way(bob, id)} <= {404, 405}
        assert {response.status_code for response in every_way(bob, hers[:-1] + "%")} == {404}
        assert {response.status_code for response in every_way(bob, hers.upper())} <= {404}
        assert ann.get("/v1/memories").json()["total"] == 1


def test_users_with_names_that_are_alike_share_nothing(server: Running) -> None:
    clients = {user: server.client(key) for key, user in USERS.items()}
    ids = {}
    for user, http in clients.items():
        ids[user] = http.post("/v1/memories", json={"text": f"the dog of {user}", "session": "s", "agent": "a"}).json()[
            "id"
        ]
    for (me, http), (other, id) in itertools.product(clients.items(), ids.items()):
        assert http.get(f"/v1/memories/{id}").status_code == (200 if me == other else 404)
    for me, http in clients.items():
        assert [entry["user"] for entry in http.get("/v1/memories").json()["entries"]] == [me]
        assert [hit["text"] for hit in http.post("/v1/search", json={"query": "dog"}).json()["hits"]] == [
            f"the dog of {me}"
        ]
        assert http.get("/v1/stats").json()["entries"] == 1
        http.close()


def test_no_request_says_whose_it_is_but_by_its_key(server: Running) -> None:
    with server.client() as ann, server.client("key-of-bob") as bob:
        ann.post("/v1/memories", json={"text": "a dog"})
        assert bob.post("/v1/memories", json={"text": "a", "user": "ann"}).status_code == 422
        assert bob.post("/v1/search", json={"query": "dog", "user": "ann"}).status_code == 422
        assert bob.get("/v1/memories", params={"user": "ann"}).json()["total"] == 0
        assert bob.get("/v1/memories", headers={"X-User": "ann", "r3mem.user": "ann"}).json()["total"] == 0


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer wrong", "Basic a2V5LW9mLWFubg==", "key-of-ann", "Bearer key-of-ann2",
               "Bearer " + "a" * 10_000, "Bearer \xff\xfe", "Bearer KEY-OF-ANN"],
)  # fmt: skip
def test_who_has_no_key_is_told_so_and_sees_nothing(server: Running, header: str | None) -> None:
    given = {} if header is None else {"Authorization": header.encode("latin-1")}
    with server.client(None) as http:
        for asked in ("GET /v1/memories", "POST /v1/memories", "POST /v1/files", "POST /mcp", "GET /metrics",
                      "GET /v1/none", "DELETE /v1/memories?all=true"):  # fmt: skip
            method, path = asked.split()
            got = http.request(method, path, headers=given)
            assert got.status_code == 401 and got.headers["www-authenticate"] == "Bearer"
            message = "this key is not known here: send the header Authorization: Bearer KEY"
            assert got.json() == {"error": "unknown_key", "message": message}


def test_a_key_that_is_taken_out_of_the_file_holds_no_longer(start: Callable[..., Running], tmp_path: Path) -> None:
    file = tmp_path / "keys"
    ann, bob = add_key(file, "ann"), add_key(file, "bob")
    server = start(keys=KeyFile(file))
    with server.client(ann) as hers, server.client(bob) as his:
        assert hers.get("/v1/memories").status_code == his.get("/v1/memories").status_code == 200
        kept = file.read_text().splitlines()
        file.write_text(kept[1] + "\n")
        assert hers.get("/v1/memories").status_code == 401
        assert his.get("/v1/memories").status_code == 200
        # A file that is wrong lets nobody in, and one that is right again does.
        file.write_text("oh\n")
        assert his.get("/v1/memories").status_code == 401
        file.write_text("\n".join(kept))
        assert hers.get("/v1/memories").status_code == 200


def test_without_keys_pages_of_other_sites_are_refused(start: Callable[..., Running]) -> None:
    server = start(keys=OneUser("ann"), limits=Limits())
    with server.client(None) as http:
        assert http.post("/v1/memories", json={"text": "mine"}).status_code == 201
        port = server.url.rpartition(":")[2]
        for good in [{"Host": f"localhost:{port}"}, {"Origin": f"http://localhost:{port}"}, {"Host": "[::1]"}]:
            assert http.get("/v1/memories", headers=good).json()["total"] == 1
        origins = ("https://evil.example", "null", "http://localhost@evil.example")
        hosts = ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "[::")
        for bad in [*({"Origin": origin} for origin in origins), *({"Host": host} for host in hosts)]:
            for path in ("/v1/memories", "/mcp", "/health"):
                assert http.post(path, json={"text": "theirs"}, headers=bad).status_code == 403, bad
        assert http.get("/v1/memories").json()["total"] == 1


def test_no_page_of_another_site_reads_an_answer(server: Running) -> None:
    with server.client() as http:
        got = http.options(
            "/v1/memories", headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "GET"}
        )
        assert "access-control-allow-origin" not in got.headers
        got = http.get("/v1/memories", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in got.headers


def test_lines_of_the_tests_are_lines_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(lines(USERS))
    assert {key: KeyFile(file).user_of(key) for key in USERS} == USERS
