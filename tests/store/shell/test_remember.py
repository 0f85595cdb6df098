"""What is remembered, what is left out, and what is said of both."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from r3mem.store import MemoryStore
from tests.store.readers.pdf_files import pdf_of
from tests.store.shell.conftest import Command

NOTE = "The dog of Ann is called Rex.\r\n"
CHAT = [{"role": "user", "content": "Where is my key?"}, {"role": "assistant", "content": "Under the mat."}]


@pytest.fixture
def notes(place: Path) -> Path:
    """A folder with a file of each kind, and one that is damaged."""
    folder = place / "notes"
    (folder / "deep").mkdir(parents=True)
    (folder / "dog.md").write_bytes(NOTE.encode())
    (folder / "page.html").write_text("<title>Cats</title><p>Tom is <b>grey</b>.")
    (folder / "paper.pdf").write_bytes(pdf_of("Birds sing."))
    (folder / "deep" / "chat.jsonl").write_text(json.dumps({"messages": CHAT}) + "\n")
    (folder / "bad.txt").write_bytes(b"broken \xff")
    (folder / ".hidden").write_text("not for you")
    return folder


def kept(place: Path, user: str = "ann") -> dict[str, str]:
    """Every text by the last part of its source."""
    with MemoryStore.open(str(place / "memory.db"), compress="later") as store:
        return {Path(e.source or "-").name: store.recall(e.id, user=user) for e in store.list(user=user)}


def test_a_folder_with_one_bad_file_keeps_the_others(r3: Command, notes: Path, place: Path) -> None:
    done = r3("remember", "notes")
    assert done.code == 3
    (line,) = done.err.splitlines()
    assert line.startswith("r3mem: left out: notes/bad.txt") and "not UTF-8" in line
    assert "kept 4 files in 4 entries" in done.out and "4 texts pending: r3mem stats --wait compresses" in done.out
    assert kept(place) == {
        "dog.md": NOTE, "page.html": "Cats\n\nTom is grey.", "paper.pdf": "Birds sing.",
        "chat.jsonl": "user: Where is my key?\nassistant: Under the mat.",
    }  # fmt: skip


def test_json_tells_the_same(r3: Command, notes: Path) -> None:
    done = r3("remember", "notes", "--json")
    told = json.loads(done.out)
    assert done.code == 3 and [Path(f["source"]).name for f in told["files"]] == [
        "dog.md", "page.html", "paper.pdf", "chat.jsonl"
    ]  # fmt: skip
    assert told["pending"] == 4 and [each["source"] for each in told["left_out"]] == ["notes/bad.txt"]
    assert all(Path(each["source"]).is_absolute() and len(each["entries"]) == 1 for each in told["files"])


def test_patterns_and_names_and_none_twice(r3: Command, notes: Path, place: Path) -> None:
    done = r3("remember", "notes/**/*.md", "notes/dog.md", "notes/p*")
    assert done.code == 0 and set(kept(place)) == {"dog.md", "page.html", "paper.pdf"}
    assert "kept 3 files" in done.out


def test_the_store_does_not_remember_itself(r3: Command, place: Path) -> None:
    (place / "a.txt").write_text("a text")
    assert r3("remember", "a.txt").code == 0
    done = r3("remember", ".")
    assert (done.code, done.err) == (0, "") and "kept 1 file " in done.out


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["nothing.txt"], 2, "nothing.txt: no such file or folder; nothing was remembered"),
        (["dog.md", "nothing.txt"], 2, "nothing.txt: no such file or folder; nothing was remembered"),
        (["*.docx"], 2, "*.docx: nothing fits this pattern"),
        ([""], 2, "no name of a file"),
        (["empty"], 2, "nothing to remember"),
        (["empty.txt"], 2, "empty.txt is empty"),
        (["picture.png"], 2, "is a picture (PNG)"),
        (["dog.md", "--time", "yesterday"], 2, "time 'yesterday'"),
        (["dog.md", "--characters", "3"], 2, "characters 3"),
        (["dog.md", "--source", "x"], 2, "--source names standard input"),
        (["dog.md", "--user", ""], 2, "user is empty"),
        (["dog.md", "--user", "u" * 257], 2, "user has 257 characters"),
        (["dog.md", "--user", "a\tb"], 2, "control character"),
        (["dog.md", "--as", "docx"], 2, "invalid choice: 'docx'"),
        (["dog.md", "--store", "nowhere/memory.db"], 2, "no such folder"),
        (["dog.md", "--store", "mysql://x/y"], 2, "a store in mysql is not possible"),
        (["dog.md", "--store", "dog.md"], 3, "dog.md is damaged or no database"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(arguments: list[str], code: int, says: str, r3: Command, place: Path) -> None:
    (place / "dog.md").write_bytes(NOTE.encode())
    (place / "empty").mkdir()
    (place / "empty.txt").touch()
    (place / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    done = r3("remember", *arguments)
    assert (done.code, done.out) == (code, "") and says in done.err
    assert len(done.err.splitlines()) == 1 and done.err.startswith("r3mem: ")
    assert (place / "dog.md").read_bytes().decode() == NOTE
    if (place / "memory.db").exists():
        assert kept(place) == {}


def test_pipes_in_a_folder_are_left_out_and_not_waited_for(r3: Command, place: Path) -> None:
    (place / "in").mkdir()
    os.mkfifo(place / "in" / "pipe")
    (place / "in" / "a.txt").write_text("a")
    (place / "in" / "lost").symlink_to("nowhere")
    done = r3("remember", "in")
    assert done.code == 3 and "kept 1 file " in done.out
    assert "in/pipe is no file" in done.err and "in/lost cannot be read (No such file or directory)" in done.err


def test_odd_names_of_files(r3: Command, place: Path) -> None:
    (place / "a[1]*.txt").write_text("in brackets")
    with open(os.fsencode(place) + b"/\xff\x1b[31m.txt", "w") as file:
        file.write("odd")
    done = r3("remember", "a[1]*.txt", ".")
    assert done.code == 0 and "\x1b" not in done.out and "\\xff\\x1b[31m.txt" in done.out
    assert set(kept(place).values()) == {"in brackets", "odd"}


def test_a_long_file_becomes_entries_that_are_the_file_again(r3: Command, place: Path) -> None:
    long = "".join(f"Line {i} of a long file, naïve.\n" for i in range(400))
    (place / "long.txt").write_text(long)
    done = r3("remember", "long.txt", "--characters", "1000")
    assert done.code == 0 and "in 13 entries" in done.out and " and 12 more  " in done.out
    (place / "long.txt").write_text("newer\n")
    assert r3("recall", "--source", "long.txt").out == long
    r3("remember", "long.txt")
    assert r3("recall", "--source", str(place / "long.txt")).out == "newer\n"


def test_standard_input_and_the_real_command(shell: Command, place: Path) -> None:
    assert shell("remember", "-", given=NOTE.encode()).code == 0
    assert shell("remember", "-", "--source", "mail", "--as", "html", given=b"<p>a letter").code == 0
    chat = json.dumps({"messages": CHAT}).encode()
    assert shell("remember", "-", "--source", "chat", "--as", "chat", given=chat).code == 0
    assert kept(place)["standard input"] == NOTE and kept(place)["mail"] == "a letter"
    done = shell("remember", "-")
    assert (done.code, done.out) == (2, "") and "standard input is empty" in done.err
    done = shell("remember", "-", given=b"\xff\xfe\0")
    assert (done.code, done.out) == (2, "") and "standard input" in done.err
    # Words come back as bytes, with nothing behind them.
    (mail,) = (e for e in json.loads(shell("list", "--json").out)["entries"] if e["source"] == "mail")
    assert shell("recall", mail["id"]).out == "a letter"


def test_waiting_compresses_and_recall_is_exact(shell: Command, r3: Command, place: Path) -> None:
    (place / "dog.md").write_bytes(NOTE.encode())
    done = shell("remember", "dog.md", "--wait")
    assert done.code == 0 and "pending" not in done.out
    told = json.loads(r3("stats", "--json").out)
    assert (told["pending"], told["failed"], told["raw_bytes"]) == (0, 0, 0) and told["positions"] > 0
    id = done.out.split()[0]
    assert shell("recall", id).out == NOTE


def test_keep_text_keeps_the_raw_text_too(r3: Command, place: Path) -> None:
    (place / "dog.md").write_text("a text")
    assert r3("remember", "dog.md", "--wait", "--keep-text").code == 0
    assert json.loads(r3("stats", "--json").out)["raw_bytes"] == 6


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_without_the_right_to_write(r3: Command, place: Path) -> None:
    (place / "dog.md").write_text("a text")
    (place / "dog.md").chmod(0)
    assert r3("remember", "dog.md").code == 2
    (place / "locked").mkdir(mode=0o500)
    done = r3("remember", "dog.md", "--store", "locked/memory.db")
    assert done.code == 3 and "give the right to write" in done.err
