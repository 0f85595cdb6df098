"""A store of texts holds exactly the tokens, is mapped instead of loaded, and is never half there."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from datamodules import atomic_folder, text_store
from datamodules.sources import ReadingOptions, Source, open_source
from datamodules.store import tokenizer_fingerprint
from datamodules.text_store import TextStore, TextWriter
from datamodules.token_corpus import TokenCorpus
from r3mem.errors import InputError
from tests.cases.damage import damaged


def write_lines(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def made(source: Source | str, tokenizer: PreTrainedTokenizerFast, root: Path, **options: Any) -> TextStore:
    source = open_source(source) if isinstance(source, str) else source
    return TextStore(*TextWriter(source, tokenizer, **options).make(root))


def test_tokens_are_those_of_the_tokenizer(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    texts = ["Größe 語", "b" * 5000, "<eos> is text too"]
    store = made(write_lines(tmp_path / "a.jsonl", texts), byte_tokenizer, tmp_path / "c")
    for number, text in enumerate(texts):
        ids = byte_tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert store.read(number, 0, 10**9).tolist() == ids
        assert int(np.diff(store.ids.offsets)[number]) == len(ids)
    assert store.read(1, 10, 13).tolist() == byte_tokenizer("bbb", add_special_tokens=False)["input_ids"]
    assert [store.origin(i) for i in range(3)] == [f"{tmp_path / 'a.jsonl'}:{line}" for line in (1, 2, 3)]
    assert store.report.documents == 3 and store.report.tokens == int(store.ids.offsets[-1])
    assert store.report.seconds > 0 and not store.report.reused


@pytest.mark.parametrize(("n_added", "dtype"), [(0, np.uint16), (66_000, np.uint32)])
def test_type_is_the_smallest_that_holds_the_vocabulary(
    tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast, n_added: int, dtype: type
) -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=type(byte_tokenizer.backend_tokenizer).from_str(byte_tokenizer.backend_tokenizer.to_str())
    )
    if n_added:
        tokenizer.add_tokens([f"⟦{i}⟧" for i in range(n_added)])
    text = f"a⟦{n_added - 1}⟧" if n_added else "ab"
    store = made(write_lines(tmp_path / "a.jsonl", [text]), tokenizer, tmp_path / "c")
    assert store.ids.dtype == dtype
    assert store.read(0, 0, 2).tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_file_whose_name_is_not_unicode(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.txt")
    path.write_text("one")
    assert made(str(path), byte_tokenizer, tmp_path / "c").origin(0) == str(path)


def test_long_document_in_pieces_is_the_same_tokens(
    tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["line one\nline two\n" * 30, "x" * 150, "word " * 40, "short"]
    path = write_lines(tmp_path / "a.jsonl", texts)
    monkeypatch.setattr(text_store, "BATCH_CHARACTERS", 64)
    sizes = []
    original = TextWriter.ids
    monkeypatch.setattr(TextWriter, "ids", lambda self, x: sizes.append(max(map(len, x))) or original(self, x))
    store = made(path, byte_tokenizer, tmp_path / "c")
    corpus = TokenCorpus([store])
    for number, text in enumerate(texts):
        assert byte_tokenizer.decode(corpus.read(number, 0, int(corpus.lengths[number]))) == text
    assert max(sizes) <= 64


def test_cache_is_reused_until_something_changes(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    path, root = write_lines(tmp_path / "a.jsonl", ["one", "two"]), tmp_path / "c"
    first = made(path, byte_tokenizer, root)
    assert made(path, byte_tokenizer, root).report.reused
    assert made(path, byte_tokenizer, root).folder == first.folder
    folders = {first.folder, made(path, byte_tokenizer, root, max_documents=1).folder}
    folders.add(made(open_source(path, ReadingOptions("text")), byte_tokenizer, root).folder)
    backend = byte_tokenizer.backend_tokenizer
    other = PreTrainedTokenizerFast(tokenizer_object=type(backend).from_str(backend.to_str()))
    other.add_tokens(["one"])
    folders.add(made(path, other, root).folder)
    write_lines(Path(path), ["one", "tow"])
    os.utime(path, ns=(1, 1))
    folders.add(made(path, byte_tokenizer, root).folder)
    assert len(folders) == 5


def test_fingerprint_ignores_how_the_tokenizer_was_last_called(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    before = tokenizer_fingerprint(byte_tokenizer)
    byte_tokenizer(["abc", "d"], padding=True, truncation=True, max_length=2)
    assert tokenizer_fingerprint(byte_tokenizer) == before


def test_empty_documents_are_skipped_and_counted(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    path = write_lines(tmp_path / "a.jsonl", ["", "one", "", " \n", "three"])
    store = made(path, byte_tokenizer, tmp_path / "c", max_documents=2)
    assert (store.report.documents, store.report.left_out, store.report.cut_at) == (2, {"empty documents": 2}, 2)
    assert "left out: 2 empty documents" in str(store.report) and "max_documents=2" in str(store.report)
    assert made(path, byte_tokenizer, tmp_path / "c", max_documents=2).report.left_out == {"empty documents": 2}
    whole = made(path, byte_tokenizer, tmp_path / "c", max_documents=3)
    assert whole.report.cut_at is None
    with pytest.raises(InputError, match=r"nothing in it can be used .2 empty documents.; give another source"):
        made(write_lines(tmp_path / "b.jsonl", ["", ""]), byte_tokenizer, tmp_path / "c")


def test_half_a_surrogate_pair_is_refused(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "ok"}\n{"text": "a\\ud800"}\n')
    with pytest.raises(InputError, match=r"a\.jsonl:2: half of a surrogate pair at character 1"):
        made(str(path), byte_tokenizer, tmp_path / "c")


def test_tokens_are_mapped_not_loaded(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    store = made(write_lines(tmp_path / "a.jsonl", ["y" * 300_000]), byte_tokenizer, tmp_path / "c")
    store.read(0, 0, 10)
    assert isinstance(store.ids.values, np.memmap)
    assert isinstance(store.ids.offsets, np.memmap)
    packed = pickle.dumps(store)
    assert len(packed) < 2000
    assert pickle.loads(packed).read(0, 299_990, 300_000).tolist() == store.read(0, 0, 10).tolist()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_interrupted_write_leaves_nothing(
    tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    source, root = open_source(write_lines(tmp_path / "a.jsonl", ["one", "two"])), tmp_path / "c"

    def interrupted(*_: object, **__: object) -> None:
        raise error("stop")

    with monkeypatch.context() as patch:
        patch.setattr(text_store.np, "save", interrupted)
        with pytest.raises((error, InputError)):
            made(source, byte_tokenizer, root)
    assert [p.name for p in root.iterdir() if p.is_dir()] == []
    assert made(source, byte_tokenizer, root).report.documents == 2


def test_killed_writer_leaves_no_half_store(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    source, root = open_source(write_lines(tmp_path / "a.jsonl", ["one", "two"])), tmp_path / "c"
    byte_tokenizer.save_pretrained(tmp_path / "tokenizer")
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom transformers import AutoTokenizer\n"
        "from datamodules import text_store\nfrom datamodules.sources import open_source\n"
        "text_store.np.save = lambda *a, **k: os._exit(9)\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[2])\n"
        "text_store.TextWriter(open_source(sys.argv[1]), tokenizer).make(Path(sys.argv[3]))"
    )
    arguments = [str(tmp_path / "a.jsonl"), str(tmp_path / "tokenizer"), str(root)]
    done = subprocess.run([sys.executable, "-c", script, *arguments], cwd=Path(text_store.__file__).parents[1])
    assert done.returncode == 9
    leftovers = [p for p in root.iterdir() if p.is_dir()]
    assert len(leftovers) == 1 and leftovers[0].name.startswith(".")
    store = made(source, byte_tokenizer, root)
    assert store.report.documents == 2 and not store.report.reused
    assert [p for p in root.iterdir() if p.is_dir()] == [store.folder], "what the killed writer left is removed"


def test_concurrent_processes_build_once(
    tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, root = write_lines(tmp_path / "a.jsonl", ["text"] * 50), tmp_path / "c"
    builds: list[int] = []
    original = atomic_folder.make
    monkeypatch.setattr(atomic_folder, "make", lambda *a: builds.append(1) or original(*a))
    found: list[TextStore] = []
    ranks = [threading.Thread(target=lambda: found.append(made(path, byte_tokenizer, root))) for _ in range(4)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert len(builds) == 1 and len(found) == 4
    assert {store.folder for store in found} == {found[0].folder}


def test_lost_race_without_locks_uses_the_winner(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    source = open_source(write_lines(tmp_path / "a.jsonl", ["one"]))
    winner = made(source, byte_tokenizer, tmp_path / "c").folder
    before = (winner / "meta.json").stat().st_mtime_ns
    atomic_folder.make(winner, lambda scratch: (scratch / "meta.json").write_text("another"))
    assert (winner / "meta.json").stat().st_mtime_ns == before
    assert not list((tmp_path / "c").glob(".*"))


def test_damaged_cache_is_refused(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    source = open_source(write_lines(tmp_path / "a.jsonl", ["one two three"]))
    folder = made(source, byte_tokenizer, tmp_path / "c").folder
    other = made(write_lines(tmp_path / "b.jsonl", ["one two", " three"]), byte_tokenizer, tmp_path / "c").folder
    content: bytes | None
    for name, content in (
        ("ids.uint16.bin", b"ab"),
        ("ids.offsets.npy", b""),
        ("ids.offsets.npy", (other / "ids.offsets.npy").read_bytes()),
        ("digests.npy", (other / "digests.npy").read_bytes()),
        ("origins.uint8.bin", None),
        ("meta.json", b"{}"),
        ("meta.json", None),
    ):
        before = (folder / name).read_bytes()
        (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
        with pytest.raises(InputError, match=r"is damaged \(.*\): delete that folder"):
            made(source, byte_tokenizer, tmp_path / "c")
        (folder / name).write_bytes(before)
    assert made(source, byte_tokenizer, tmp_path / "c").report.reused


def test_a_store_gives_what_was_written_or_is_refused(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    source = open_source(write_lines(tmp_path / "a.jsonl", ["one two three", "four"]))
    store = made(source, byte_tokenizer, tmp_path / "c")
    rows = [store.read(i, 0, 99).tolist() for i in range(2)]
    for path in sorted(store.folder.iterdir()):
        whole = path.read_bytes()
        for what, content in damaged(whole, 40):
            path.write_bytes(content)
            try:
                found = made(source, byte_tokenizer, tmp_path / "c")
            except InputError:
                continue
            assert [found.read(i, 0, 99).tolist() for i in range(2)] == rows, (path.name, what)
            assert (found.origin(0), found.digests.tolist()) == (store.origin(0), store.digests.tolist())
        path.write_bytes(whole)


def test_one_process_of_a_machine_checks_a_store(
    tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(write_lines(tmp_path / "a.jsonl", ["one two three"]))
    path = made(source, byte_tokenizer, tmp_path / "c").folder / "ids.uint16.bin"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    monkeypatch.setenv("LOCAL_RANK", "1")
    made(source, byte_tokenizer, tmp_path / "c")
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(InputError, match=r"ids\.uint16\.bin does not match its digest\): delete that folder"):
        made(source, byte_tokenizer, tmp_path / "c")


def test_split_is_disjoint_complete_and_stable(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    texts = [f"document {i}" for i in range(400)]
    corpus = TokenCorpus([made(write_lines(tmp_path / "a.jsonl", texts), byte_tokenizer, tmp_path / "c")])
    parts = corpus.split(0.2, 0.1)
    chosen = [set(part.selection.tolist()) for part in parts]
    assert sum(map(len, chosen)) == 400 and set().union(*chosen) == set(range(400))
    assert 50 <= len(chosen[1]) <= 110 and 20 <= len(chosen[2]) <= 60

    def place(order: list[str], part: int) -> set[str]:
        path = write_lines(tmp_path / f"b{len(order)}.jsonl", order)
        store = made(path, byte_tokenizer, tmp_path / "c")
        return {order[i] for i in TokenCorpus([store]).split(0.2, 0.1)[part].selection}

    for part in range(3):
        before = {texts[i] for i in chosen[part]}
        assert place(["a new one", *reversed(texts)], part) - {"a new one"} == before
        assert place(texts[::2], part) == before & set(texts[::2])
