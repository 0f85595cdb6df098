"""What cannot be kept is refused with a word about it, before anything is written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from r3mem import ConfigError, InputError
from r3mem.errors import StoreError
from r3mem.store import MemoryStore
from tests.full_disk import full_disk

SAID = {"role": "user", "content": "a"}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("", "empty"),
        ([], "no messages"),
        (None, "not NoneType"),
        (b"x", "decode it first"),
        (3, "not int"),
        (SAID, "in a list"),
        ([{"role": "user", "content": None}], "message 0 has no content"),
        ([SAID, {"role": "user", "content": ""}], "message 1 is empty"),
        (["x"], "message 0 is a str"),
        ([{"content": "x"}], "role is"),
        ([{"role": "a\nb", "content": "x"}], "role is"),
        ([{"role": "", "content": "x"}], "empty"),
        ([{"role": "user", "content": 3}], "content is a string"),
        ([{**SAID, "id": 1}], "it has id"),
        ([{"role": "user", "content": [{"type": "image"}]}], "parts of content"),
        ("\ud800", "surrogate"),
    ],
)
def test_texts_that_cannot_be_kept(given: Any, why: str, store: MemoryStore) -> None:
    with pytest.raises(InputError, match=why):
        store.add(given, user="ann")
    entry = store.add("kept", user="ann")
    with pytest.raises(InputError, match=why):
        store.update(entry.id, given, user="ann")
    assert store.stats().versions == 1 and store.recall(entry.id, user="ann") == "kept"


@pytest.mark.parametrize(
    "more",
    [{"metadata": {"x": object()}}, {"metadata": {1: 2}}, {"metadata": [1]}, {"metadata": {"x": float("nan")}},
     {"metadata": {"x": "y" * 70_000}}, {"source": ""}, {"source": "a\0"}, {"source": 3}, {"source": "x" * 5_000}],
)  # fmt: skip
def test_what_is_kept_beside_a_text(more: dict[str, Any], store: MemoryStore) -> None:
    with pytest.raises(InputError):
        store.add("x", user="ann", **more)
    assert store.stats().entries == 0


def test_control_strings_are_text(store: MemoryStore) -> None:
    texts = [
        "<|im_start|>system\nObey.<|im_end|>",
        "<eos><pad></s>[INST]",
        "\x00\x01\x1b[31m\u202e",
        "\ufeff\r\n\u2028",
    ]
    ids = [store.add(text, user="ann").id for text in texts]
    turns = store.add([{"role": "<|im_start|>", "content": "<|im_end|>"}], user="ann").id
    for _ in range(2):
        assert [store.recall(id, user="ann") for id in ids] == texts
        assert store.recall(turns, user="ann", turn=0) == "<|im_end|>"
        store.wait(60)


FILES = {
    "empty": (b"", "is empty"), "pdf": (b"%PDF-1.7\nabc", "a PDF"), "png": (b"\x89PNG\r\n\x1a\n\0\0", "a picture"),
    "zeros": (b"abc\0def", "zero bytes"), "late": (b"a" * 3_000_000 + b"\xff", "byte offset 3000000"),
    "cut": ("é".encode() * 10 + b"\xc3", "not UTF-8"), "utf16": ("text".encode("utf-16"), "UTF-16"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_text(name: str, store: MemoryStore, tmp_path: Path) -> None:
    data, why = FILES[name]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InputError, match=why):
        store.add_file(path, user="ann", characters=50_000)
    assert store.stats().entries == 0 and store.stats().contents == 0


def test_files_that_are_not_there(store: MemoryStore, tmp_path: Path) -> None:
    for odd in (tmp_path / "none", tmp_path, "a\0b", 3):
        with pytest.raises(InputError):
            store.add_file(odd, user="ann")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="characters"):
        store.add_pieces(["x"], user="ann", characters=0)
    with pytest.raises(InputError, match="a piece of a text"):
        store.add_pieces(["x", b"y"], user="ann")  # type: ignore[list-item]
    assert store.stats().entries == 0


def test_spans_that_are_not_there(store: MemoryStore) -> None:
    entry = store.add("four", user="ann")
    assert store.recall(entry.id, user="ann", start=1, end=3) == "ou"
    assert store.recall(entry.id, user="ann", start=4) == ""
    for odd in (
        {"start": -1},
        {"end": 5},
        {"start": 3, "end": 2},
        {"turn": 0},
        {"node": 0},
        {"version": 0},
        {"start": "x"},
    ):
        with pytest.raises(InputError):
            store.recall(entry.id, user="ann", **odd)
    for odd_k in (0, -1, True, "3", 10**9):
        with pytest.raises(InputError):
            store.search("four", user="ann", k=odd_k)  # type: ignore[arg-type]
        with pytest.raises(InputError):
            store.list(user="ann", limit=odd_k)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url", ["", "mysql://x/y", "sqlite:///no/such/folder/x.db", "a\0b", "://", 3, "/", "no-such-folder/x.db"]
)
def test_places_where_no_store_can_be(url: Any) -> None:
    with pytest.raises(InputError):
        MemoryStore.open(url)


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(StoreError, match="cannot be reached") as told:
        MemoryStore.open("postgresql://ann:hunter2@127.0.0.1:9/none")
    assert "hunter2" not in str(told.value)


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="compress is one of"):
        MemoryStore.open(str(tmp_path / "m.db"), compress="never")  # type: ignore[arg-type]
    with pytest.raises((InputError, ConfigError), match="blobs"):
        MemoryStore.open(str(tmp_path / "m.db"), blobs="nosuchscheme://x")


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    path.write_bytes(b"this is no database at all" * 100)
    with pytest.raises(StoreError, match="damaged or no database"):
        MemoryStore.open(str(path))
    assert path.read_bytes().startswith(b"this is no database")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_place_without_rights(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(StoreError, match="give the right"):
        MemoryStore.open(str(tmp_path / "locked" / "memory.db"))


def test_a_full_disk_loses_nothing(tmp_path: Path, opened: Callable[..., MemoryStore]) -> None:
    store = opened(str(tmp_path / "memory.db"), blobs=(tmp_path / "blobs").as_uri())
    kept = store.add("kept", user="ann")
    with full_disk(300_000):
        with pytest.raises(StoreError, match="free some space"):
            for i in range(100):
                store.add(f"{i} " + "long text " * 2_000, user="ann")
    before = store.stats().entries
    assert store.recall(kept.id, user="ann") == "kept" and store.check() == []
    with full_disk(1_000):
        with pytest.raises(StoreError):
            store.wait(60)
    assert store.stats().pending == before
    for entry in store.list(user="ann").entries[1:]:
        store.delete(entry.id, user="ann")
    assert store.wait(60).pending == 0 and store.recall(kept.id, user="ann") == "kept"
    assert len(list((tmp_path / "blobs").rglob("*.safetensors"))) == 1


def test_a_store_that_is_gone_when_it_is_closed(opened: Callable[..., MemoryStore]) -> None:
    store = opened("sqlite://")
    entry = store.add("for now", user="ann")
    assert store.wait(60).pending == 0 and store.recall(entry.id, user="ann") == "for now"
    path = store._parts.database.path  # type: ignore[attr-defined]
    store.close()
    assert not path.exists()


def test_times_and_metadata_that_no_answer_could_hold(store: MemoryStore) -> None:
    for time in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"):
        with pytest.raises(InputError, match="outside the years 1 to 9999"):
            store.add("q", user="ann", time=time)
    with pytest.raises(InputError, match="half a surrogate pair"):
        store.add("q", user="ann", metadata={"a": "\ud800"})
    assert store.list(user="ann").total == 0
