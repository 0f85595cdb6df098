"""Every other memory command: what it finds, changes and says, and the code with which it ends."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from r3mem.store import shell as commands
from r3mem.store.shell import output, progress
from tests.full_disk import full_disk
from tests.store.shell.conftest import ROOT, Answer, Command

TEXTS = {"dog.md": "The dog is called Rex.\n", "cat.md": "The cat is called Tom.\n"}


@pytest.fixture
def ids(r3: Command, place: Path) -> dict[str, str]:
    """Two notes that are remembered, by the names of their files."""
    found = {}
    for name, text in TEXTS.items():
        (place / name).write_text(text)
        found[name] = r3("remember", name).out.split()[0]
    return found


def test_search_says_where_and_shows_the_text(r3: Command, ids: dict[str, str]) -> None:
    done = r3("search", "what", "is", "the", "dog", "called")
    first, text = done.out.splitlines()[:2]
    assert done.code == 0 and first.startswith(f"1. {ids['dog.md']}  dog.md[0:23]") and "Rex" in text
    found = json.loads(r3("search", "dog", "-k", "1", "--json").out)["hits"]
    assert [(hit["entry"]["id"], hit["text"]) for hit in found] == [(ids["dog.md"], TEXTS["dog.md"])]
    assert "Rex" not in r3("search", "dog", "--no-text").out
    nothing = r3("search", "zebra")
    assert (nothing.code, nothing.out) == (1, "") and nothing.err.startswith("r3mem: no memory of 'ann'")
    assert json.loads(r3("search", "zebra", "--json").out) == {"hits": []}


def test_search_by_likelihood_compresses_first(r3: Command, ids: dict[str, str]) -> None:
    found = json.loads(r3("search", "dog", "--by", "fused", "--json").out)["hits"]
    assert {hit["entry"]["id"] for hit in found} <= set(ids.values()) and found
    assert json.loads(r3("stats", "--json").out)["pending"] < 2


def test_a_text_that_steers_a_terminal_is_shown_harmless(r3: Command, place: Path) -> None:
    (place / "a.txt").write_text("a zebra \x1b[2J\r of " + "x" * 400)
    id = r3("remember", "a.txt").out.split()[0]
    shown = r3("search", "zebra").out
    assert "\x1b" not in shown and "\\x1b[2J" in shown and shown.endswith(" ...\n")
    assert "\x1b" in r3("recall", id).out


def test_recall_of_parts(r3: Command, ids: dict[str, str], place: Path) -> None:
    dog = ids["dog.md"]
    assert r3("recall", dog).out == TEXTS["dog.md"]
    assert r3("recall", dog, "--start", "4", "--end", "7").out == "dog"
    assert json.loads(r3("recall", dog, "--version", "1", "--json").out)["text"] == TEXTS["dog.md"]
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    (place / "c.jsonl").write_text("".join(json.dumps(m) + "\n" for m in chat))
    id = r3("remember", "c.jsonl").out.split()[0]
    assert r3("recall", id, "--turn", "1").out == "Ho"
    for arguments in (["--start", "99"], ["--turn", "0"], ["--version", "7"], ["--turn", "0", "--node", "0"]):
        done = r3("recall", dog, *arguments)
        assert done.code in (1, 2) and done.out == "" and len(done.err.splitlines()) == 1
    for arguments in ([], [dog, "--source", "dog.md"], ["--source", "dog.md", "--start", "1"]):
        assert r3("recall", *arguments).code == 2
    assert r3("recall", "--source", "no.md").code == 1


@pytest.mark.parametrize("command", ["recall", "history", "forget"])
@pytest.mark.parametrize("id", ["0" * 32, "no id", "../x", "'; drop table entries"])
def test_an_unknown_id_is_nothing_found(command: str, id: str, r3: Command, ids: dict[str, str]) -> None:
    done = r3(command, id)
    assert (done.code, done.out) == (1, "") and len(done.err.splitlines()) == 1
    assert r3(command, ids["dog.md"], "--user", "bob").code == 1
    assert len(json.loads(r3("list", "--json").out)["entries"]) == 2


def test_list_page_by_page(r3: Command, ids: dict[str, str]) -> None:
    done = r3("list")
    assert [line.split()[0] for line in done.out.splitlines()] == list(ids.values()) and "pending" in done.out
    page = json.loads(r3("list", "--limit", "1", "--json").out)
    assert page["total"] == 2 and [e["id"] for e in page["entries"]] == [ids["dog.md"]]
    rest = json.loads(r3("list", "--after", page["next"], "--json").out)
    assert [e["id"] for e in rest["entries"]] == [ids["cat.md"]] and rest["next"] is None
    assert "the next page: --after" in r3("list", "--limit", "1").err
    end = r3("list", "--user", "bob")
    assert (end.code, end.out) == (1, "") and "'bob' has no memories" in end.err
    assert r3("list", "--limit", "0").code == 2 and r3("list", "--after", "x").code == 2


def test_agents_and_sessions_narrow(r3: Command, place: Path) -> None:
    for session in ("one", "two"):
        (place / f"{session}.txt").write_text(f"a zebra of {session}")
        r3("remember", f"{session}.txt", "--session", session, "--agent", "keeper")
    found = json.loads(r3("search", "zebra", "--session", "two", "--json").out)["hits"]
    assert [hit["text"] for hit in found] == ["a zebra of two"]
    id = found[0]["entry"]["id"]
    assert r3("forget", id, "--session", "one").code == 1 and r3("history", id, "--agent", "other").code == 1
    assert r3("forget", "--all", "--session", "one", "--yes").out == "forgot 1 memory\n"
    assert r3("recall", id).out == "a zebra of two"


def test_forget_erases_and_counts(r3: Command, ids: dict[str, str], place: Path) -> None:
    assert r3("forget", ids["dog.md"], "0" * 32).code == 1
    assert r3("recall", ids["dog.md"]).out == TEXTS["dog.md"]
    done = r3("forget", ids["dog.md"])
    assert (done.code, done.out) == (0, "forgot 1 memory\n")
    assert b"Rex" not in b"".join(file.read_bytes() for file in place.glob("memory.db*"))
    assert r3("forget", "--source", "cat.md").code == 0 and r3("forget", "--source", "cat.md").code == 1
    assert r3("list").code == 1


def test_forget_by_policy(r3: Command, ids: dict[str, str]) -> None:
    for arguments in ([], ["--all", "--keep", "1"], [ids["dog.md"], "--all"], ["--older-than", "nan"]):
        assert r3("forget", *arguments).code == 2
    assert r3("forget", "--older-than", "1").code == 1 and r3("forget", "--keep-bytes", "1000").code == 1
    assert json.loads(r3("forget", "--keep", "1", "--json").out) == {
        "forgotten": 1,
        "unerased": False,
        "unerased_why": None,
    }
    assert r3("recall", ids["cat.md"]).out == TEXTS["cat.md"]


POLICIES = """
updating: {class_path: r3mem.store.updating.Supersede, init_args: {}}
forgetting: [{class_path: r3mem.store.forgetting.ByCount, init_args: {most: 1}}]
consolidation: {class_path: r3mem.store.consolidation.Merge, init_args: {days: null, keep: 0, ratio: 8}}
"""


def test_policies_of_a_file(r3: Command, ids: dict[str, str], place: Path) -> None:
    (place / "p.yaml").write_text(POLICIES)
    (place / "dog.md").write_text("The dog is called Max.\n")
    assert "superseded" not in r3("list").out
    r3("remember", "dog.md", "--policies", "p.yaml")
    assert "superseded by" in r3("list").out
    assert r3("forget", "--policies", "p.yaml").out == "forgot 2 memories\n"
    r3("remember", "cat.md")
    assert r3("consolidate", "--policies", "p.yaml").out.startswith("merged 2 memories into 1")
    for text in ("- x", "{broken", "colours: {class_path: x.Y}", "indexing: {class_path: no.Such}"):
        (place / "p.yaml").write_text(text)
        done = r3("search", "dog", "--policies", "p.yaml")
        assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert r3("search", "dog", "--policies", "none.yaml").code == 2


def test_all_is_forgotten_only_after_a_yes(r3: Command, ids: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert "give --yes" in r3("forget", "--all").err
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    assert r3("forget", "--all").code == 2 and r3("list").code == 0
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert r3("forget", "--all").out == "forgot 2 memories\n"


def test_a_new_version_and_its_history(r3: Command, ids: dict[str, str], place: Path) -> None:
    (place / "dog.md").write_text("The dog is called Max.\n")
    done = r3("remember", "dog.md", "--update", ids["dog.md"])
    assert done.code == 0 and done.out.startswith(f"{ids['dog.md']}  version 2, 23 bytes; 3 texts pending")
    assert r3("recall", ids["dog.md"]).out == "The dog is called Max.\n"
    assert r3("recall", ids["dog.md"], "--version", "1").out == TEXTS["dog.md"]
    assert [line.split()[3] for line in r3("history", ids["dog.md"]).out.splitlines()] == ["added", "updated"]
    assert r3("search", "Rex").code == 1 and "version 2" in r3("list").out
    (place / "none.md").touch()
    for arguments, code in ((["dog.md", "cat.md"], 2), (["none.md"], 2)):
        assert r3("remember", *arguments, "--update", ids["dog.md"]).code == code
    assert r3("remember", "dog.md", "--update", "0" * 32).code == 1


def test_history_and_stats(r3: Command, ids: dict[str, str]) -> None:
    (line,) = r3("history", ids["dog.md"]).out.splitlines()
    assert line.startswith("1  ") and "  added  pending  23 bytes" in line
    assert json.loads(r3("history", ids["dog.md"], "--json").out)["versions"][0]["why"] == "added"
    told = r3("stats").out
    assert "2 entries, 2 versions" in told and "2 pending, 0 failed" in told
    assert "2 entries of 1 users" in r3("stats", "--whole").out
    assert "0 pending" in r3("stats", "--wait").out and r3("stats", "--user", "bob").code == 1


def test_consolidate_and_recall_a_part(r3: Command, ids: dict[str, str]) -> None:
    assert r3("consolidate").out == "nothing was due\n"
    done = json.loads(r3("consolidate", "--keep", "0", "--wait", "--json").out)
    assert (done["merged"], done["made"], done["pending"]) == (2, 1, 0)
    assert [r3("recall", id).out for id in ids.values()] == list(TEXTS.values())
    assert r3("recall", done["entries"][0], "--node", "1").out == TEXTS["cat.md"]
    assert r3("recall", "--source", "dog.md").out == TEXTS["dog.md"]
    assert r3("consolidate", "--older-than", "nan").code == 2


def test_export_and_import(r3: Command, ids: dict[str, str], place: Path) -> None:
    assert r3("export", "m.zip", "--user", "bob").code == 1 and not (place / "m.zip").exists()
    assert r3("export", "m.zip").out == "2 entries written to m.zip\n"
    again = r3("export", "m.zip")
    assert again.code == 2 and "is there already" in again.err and r3("export", "m.zip", "--force").code == 0
    done = r3("import", "m.zip", "--user", "bob", "--store", "other.db")
    assert done.out.startswith("2 entries taken in; 2 texts pending")
    assert r3("import", "m.zip", "--user", "bob", "--store", "other.db").out.startswith("all were there already")
    assert "Rex" in r3("search", "dog", "--user", "bob", "--store", "other.db").out
    (place / "no.zip").write_text("no zip")
    for name in ("no.zip", "none.zip"):
        done = r3("import", name)
        assert done.code == 2 and len(done.err.splitlines()) == 1


def test_export_of_a_checkpoint_is_still_that(r3: Command, place: Path) -> None:
    (place / "folder").mkdir()
    for arguments in (["x", "--out", "y"], ["run.ckpt"], ["folder"], ["x", "--uot", "y"], ["x", "--config", "c"]):
        done = r3("export", *arguments)
        assert done.code == 2 and "whose memories" not in done.err
        assert "--out" in done.err or "x" in done.err
    assert "--force" in r3("export", "--help").out


@pytest.mark.parametrize("command", [*commands.COMMANDS])
def test_every_command_has_help_and_asks_whose(
    command: str, shell: Command, r3: Command, ids: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = r3(command, "--help")
    assert done.code == 0 and "exit codes: 0 done" in done.out and "--store URL" in done.out and done.err == ""
    if command == "check":
        # It is about the whole store.
        return
    monkeypatch.delenv("R3MEM_USER")
    needed = {"remember": ["dog.md"], "search": ["x"], "recall": ["x"], "history": ["x"], "forget": ["x"],
              "export": ["x"], "import": ["x"]}  # fmt: skip
    done = r3(command, *needed.get(command, []))
    assert done.code == 2 and "Give --user NAME, or set R3MEM_USER" in done.err
    assert r3(command, *needed.get(command, []), "--usr", "ann").err.startswith("r3mem: unknown option '--usr'")


@pytest.mark.parametrize("command", [c for c in commands.COMMANDS if c not in ("remember", "import")])
def test_where_there_is_no_store_none_is_made(command: str, r3: Command, place: Path) -> None:
    needed = {"search": ["x"], "recall": ["x"], "history": ["x"], "forget": ["x"], "export": ["x"]}
    for path in ("memory.db", "sqlite:///other.db"):
        done = r3(command, *needed.get(command, []), "--store", path)
        assert (done.code, done.out) == (3, "") and "there is no store at" in done.err
    assert list(place.iterdir()) == []


def test_the_default_store_is_in_the_user_s_data_folder(
    r3: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("R3MEM_STORE")
    monkeypatch.setenv("XDG_DATA_HOME", str(place / "data"))
    monkeypatch.setenv("HOME", str(place))
    (place / "a.txt").write_text("a text")
    assert r3("remember", "a.txt").code == 0 and r3("list").code == 0
    (made,) = place.rglob("memory.db")
    assert made.parent.name == "r3mem" and made.parent.stat().st_mode & 0o077 == 0


def test_who_stops_reading_is_not_shouted_at(r3: Command, ids: dict[str, str]) -> None:
    code = "import sys; from lightning_modules.command import main; main(sys.argv[1:])"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", code, "list"], stdout=write, stderr=subprocess.PIPE, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_any_character_is_printed_in_any_encoding(shell: Command, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    text = "ein Bär and 漢字"
    id = shell("remember", "-", "--source", "Bär", given=text.encode()).out.split()[0]
    found = shell("search", "Bär")
    assert found.code == 0 and "B\\xe4r" in found.out
    # What is recalled is bytes, whatever the terminal takes.
    assert shell("recall", id).out == text


def test_searching_and_listing_import_no_torch(r3: Command, ids: dict[str, str]) -> None:
    code = (
        "import atexit, os, sys\n"
        "atexit.register(lambda: 'torch' in sys.modules and os._exit(9))\n"
        "from lightning_modules.command import main\nmain(sys.argv[1:])\n"
    )
    for arguments in (["list"], ["search", "dog"], ["recall", ids["dog.md"]], ["remember", "dog.md"], ["stats"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, timeout=60,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, b""), arguments


def test_progress_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.05)
    monkeypatch.setattr(progress, "LOOK_SECONDS", 0.01)
    with progress.Progress("reading", 200, "bytes") as told:
        told.advance(100)
        for _ in range(500):
            if output_of := capsys.readouterr().err:
                break
            told._over.wait(0.01)
    assert output_of.startswith("r3mem: reading: 100 of 200 bytes (50%), ")


def test_progress_is_a_bar_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for total in (None, 10):
        screen = Terminal()
        monkeypatch.setattr(sys, "stderr", screen)
        monkeypatch.setenv("TERM", "xterm")
        with progress.Progress("reading", total, "bytes") as told:
            told.advance(10)
            told._over.wait(0.8)
        assert "reading" in screen.getvalue() and "r3mem:" not in screen.getvalue()


def test_places_are_short_where_they_can_be(place: Path) -> None:
    assert output.place(str(place / "a" / "b.md"), 1, 5) == "a/b.md[1:5]"
    assert output.place("/elsewhere/b.md", 0, 5) == "/elsewhere/b.md[0:5]" and output.place(None, 0, 1) == "-"


def test_forgetting_on_a_full_disk_tells_the_reason(r3: Command, place: Path) -> None:
    (place / "long.txt").write_text("".join(f"{i} " + "long text " * 390 for i in range(250)))
    (place / "dog.md").write_text("The dog is called Rex.")
    assert r3("remember", "long.txt", "dog.md").code == 0
    with full_disk(500_000):
        done = r3("forget", "--source", "dog.md")
        assert done.code == 3 and done.out == "forgot 1 memory\n"
        assert "the disk is full" in done.err and "another process" not in done.err
    told = r3("stats")
    assert told.code == 0 and "forgotten" not in told.err


def test_damage_is_named_and_the_index_mended(r3: Command, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("R3MEM_USER")
    (place / "dog.md").write_text("The dog is called Rex.")
    assert r3("remember", "dog.md", "--user", "ann").code == 0
    assert r3("check") == Answer(0, "no damage was found\n", "")
    with closing(sqlite3.connect(place / "memory.db")) as raw, raw:
        raw.execute("INSERT INTO r3mem_words(r3mem_words) VALUES ('delete-all')")
    assert r3("search", "dog", "--user", "ann").code == 1
    done = r3("check")
    assert done.code == 3 and done.out.startswith("ann: entry ") and "r3mem check --reindex" in done.out
    assert len(json.loads(r3("check", "--json").out)["problems"]) == 1
    done = r3("check", "--reindex")
    assert (done.code, done.out) == (0, "no damage was found\n") and "of 1 text" in done.err
    assert r3("search", "dog", "--user", "ann").code == 0
