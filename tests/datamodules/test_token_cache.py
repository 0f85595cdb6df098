"""The token cache holds exactly the tokens, is mapped instead of loaded, and is never half there."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from datamodules import atomic_folder, token_cache
from datamodules.sources import ReadingOptions, open_source
from datamodules.token_cache import TokenCache, open_token_cache, tokenizer_fingerprint
from datamodules.token_corpus import TokenCorpus
from r3mem.errors import InputError


def write_lines(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def test_tokens_are_those_of_the_tokenizer(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    texts = ["Größe 語", "b" * 5000, "<eos> is text too"]
    cache = open_token_cache(open_source(write_lines(tmp_path / "a.jsonl", texts)), byte_tokenizer, tmp_path / "c")
    for number, text in enumerate(texts):
        ids = byte_tokenizer(text, add_special_tokens=False)["input_ids"]
        assert cache.read(number, 0, 10**9)[: len(ids)].tolist()[: len(ids)] == ids
        assert int(np.diff(cache.offsets)[number]) == len(ids)
    assert cache.read(1, 10, 13).tolist() == byte_tokenizer("bbb", add_special_tokens=False)["input_ids"]
    assert cache.origins == [f"{tmp_path / 'a.jsonl'}:{line}" for line in (1, 2, 3)]
    assert cache.report.documents == 3 and cache.report.tokens == int(cache.offsets[-1])
    assert cache.report.tokens_per_second > 0 and not cache.report.reused


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
    cache = open_token_cache(open_source(write_lines(tmp_path / "a.jsonl", [text])), tokenizer, tmp_path / "c")
    assert cache.dtype == dtype
    assert cache.read(0, 0, 2).tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_long_document_in_pieces_is_the_same_tokens(
    tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["line one\nline two\n" * 30, "x" * 150, "word " * 40, "short"]
    path = write_lines(tmp_path / "a.jsonl", texts)
    monkeypatch.setattr(token_cache, "BATCH_CHARACTERS", 64)
    sizes = []
    original = token_cache._ids
    monkeypatch.setattr(token_cache, "_ids", lambda t, x: sizes.append(max(map(len, x))) or original(t, x))
    cache = open_token_cache(open_source(path), byte_tokenizer, tmp_path / "c")
    corpus = TokenCorpus([cache])
    for number, text in enumerate(texts):
        assert byte_tokenizer.decode(corpus.read(number, 0, int(corpus.lengths[number]))) == text
    assert max(sizes) <= 64


def test_cache_is_reused_until_something_changes(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    path, root = write_lines(tmp_path / "a.jsonl", ["one", "two"]), tmp_path / "c"
    first = open_token_cache(open_source(path), byte_tokenizer, root)
    assert open_token_cache(open_source(path), byte_tokenizer, root).report.reused
    assert open_token_cache(open_source(path), byte_tokenizer, root).folder == first.folder
    folders = {first.folder, open_token_cache(open_source(path), byte_tokenizer, root, max_documents=1).folder}
    folders.add(open_token_cache(open_source(path, ReadingOptions("text")), byte_tokenizer, root).folder)
    backend = byte_tokenizer.backend_tokenizer
    other = PreTrainedTokenizerFast(tokenizer_object=type(backend).from_str(backend.to_str()))
    other.add_tokens(["one"])
    folders.add(open_token_cache(open_source(path), other, root).folder)
    write_lines(Path(path), ["one", "tow"])
    os.utime(path, ns=(1, 1))
    folders.add(open_token_cache(open_source(path), byte_tokenizer, root).folder)
    assert len(folders) == 5


def test_fingerprint_ignores_how_the_tokenizer_was_last_called(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    before = tokenizer_fingerprint(byte_tokenizer)
    byte_tokenizer(["abc", "d"], padding=True, truncation=True, max_length=2)
    assert tokenizer_fingerprint(byte_tokenizer) == before


def test_empty_documents_are_skipped_and_counted(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    path = write_lines(tmp_path / "a.jsonl", ["", "one", " \n", "two", "three"])
    cache = open_token_cache(open_source(path), byte_tokenizer, tmp_path / "c", max_documents=2)
    assert (cache.report.documents, cache.report.empty, cache.report.cut_at) == (2, 2, 2)
    assert "2 empty documents skipped" in str(cache.report) and "max_documents=2" in str(cache.report)
    whole = open_token_cache(open_source(path), byte_tokenizer, tmp_path / "c", max_documents=3)
    assert whole.report.cut_at is None
    with pytest.raises(InputError, match="no document holds text"):
        open_token_cache(open_source(write_lines(tmp_path / "b.jsonl", ["", " "])), byte_tokenizer, tmp_path / "c")


def test_half_a_surrogate_pair_is_refused(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "ok"}\n{"text": "a\\ud800"}\n')
    with pytest.raises(InputError, match=r"a\.jsonl:2: half of a surrogate pair at character 1"):
        open_token_cache(open_source(str(path)), byte_tokenizer, tmp_path / "c")


def test_tokens_are_mapped_not_loaded(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    cache = open_token_cache(
        open_source(write_lines(tmp_path / "a.jsonl", ["y" * 300_000])), byte_tokenizer, tmp_path / "c"
    )
    cache.read(0, 0, 10)
    assert isinstance(cache._tokens, np.memmap)
    assert isinstance(cache.offsets, np.memmap)
    packed = pickle.dumps(cache)
    assert len(packed) < 2000
    assert pickle.loads(packed).read(0, 299_990, 300_000).tolist() == cache.read(0, 0, 10).tolist()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_interrupted_write_leaves_nothing(
    tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    source, root = open_source(write_lines(tmp_path / "a.jsonl", ["one", "two"])), tmp_path / "c"

    def interrupted(*_: object, **__: object) -> None:
        raise error("stop")

    with monkeypatch.context() as patch:
        patch.setattr(token_cache.np, "save", interrupted)
        with pytest.raises((error, InputError)):
            open_token_cache(source, byte_tokenizer, root)
    assert [p.name for p in root.iterdir() if p.is_dir()] == []
    assert open_token_cache(source, byte_tokenizer, root).report.documents == 2


def test_killed_writer_leaves_no_half_cache(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    source, root = open_source(write_lines(tmp_path / "a.jsonl", ["one", "two"])), tmp_path / "c"
    byte_tokenizer.save_pretrained(tmp_path / "tokenizer")
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom transformers import AutoTokenizer\n"
        "from datamodules import atomic_folder, token_cache\nfrom datamodules.sources import open_source\n"
        "token_cache.np.save = lambda *a, **k: os._exit(9)\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[2])\n"
        "token_cache.open_token_cache(open_source(sys.argv[1]), tokenizer, Path(sys.argv[3]))"
    )
    arguments = [str(tmp_path / "a.jsonl"), str(tmp_path / "tokenizer"), str(root)]
    done = subprocess.run([sys.executable, "-c", script, *arguments], cwd=Path(token_cache.__file__).parents[1])
    assert done.returncode == 9
    leftovers = [p for p in root.iterdir() if p.is_dir()]
    assert len(leftovers) == 1 and leftovers[0].name.startswith(".")
    cache = open_token_cache(source, byte_tokenizer, root)
    assert cache.report.documents == 2 and not cache.report.reused


def test_leftovers_of_a_killed_writer_are_cleared(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    source, root = open_source(write_lines(tmp_path / "a.jsonl", ["one"])), tmp_path / "c"
    name = open_token_cache(source, byte_tokenizer, root).folder
    leftover = name.rename(root / f".{name.name}-dead")
    open_token_cache(source, byte_tokenizer, root)
    assert not leftover.exists()


def test_concurrent_processes_build_once(
    tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, root = write_lines(tmp_path / "a.jsonl", ["text"] * 50), tmp_path / "c"
    builds: list[int] = []
    original = atomic_folder.make
    monkeypatch.setattr(atomic_folder, "make", lambda *a: builds.append(1) or original(*a))
    found: list[TokenCache] = []
    ranks = [
        threading.Thread(target=lambda: found.append(open_token_cache(open_source(path), byte_tokenizer, root)))
        for _ in range(4)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert len(builds) == 1 and len(found) == 4
    assert {cache.folder for cache in found} == {found[0].folder}


def test_lost_race_without_locks_uses_the_winner(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    source = open_source(write_lines(tmp_path / "a.jsonl", ["one"]))
    winner = open_token_cache(source, byte_tokenizer, tmp_path / "c").folder
    before = (winner / "meta.json").stat().st_mtime_ns
    atomic_folder.make(winner, lambda scratch: (scratch / "meta.json").write_text("another"))
    assert (winner / "meta.json").stat().st_mtime_ns == before
    assert not list((tmp_path / "c").glob(".*-*"))


def test_damaged_cache_is_refused(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    source = open_source(write_lines(tmp_path / "a.jsonl", ["one two three"]))
    folder = open_token_cache(source, byte_tokenizer, tmp_path / "c").folder
    (folder / "tokens.bin").write_bytes(b"ab")
    with pytest.raises(InputError, match="delete that folder"):
        open_token_cache(source, byte_tokenizer, tmp_path / "c")
    (folder / "meta.json").unlink()
    with pytest.raises(InputError, match="delete that folder"):
        open_token_cache(source, byte_tokenizer, tmp_path / "c")


def test_split_is_disjoint_complete_and_stable(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    texts = [f"document {i}" for i in range(400)]
    corpus = TokenCorpus(
        [open_token_cache(open_source(write_lines(tmp_path / "a.jsonl", texts)), byte_tokenizer, tmp_path / "c")]
    )
    parts = corpus.split(0.2, 0.1)
    chosen = [set(part.selection.tolist()) for part in parts]
    assert sum(map(len, chosen)) == 400 and set().union(*chosen) == set(range(400))
    assert 50 <= len(chosen[1]) <= 110 and 20 <= len(chosen[2]) <= 60

    def place(order: list[str], part: int) -> set[str]:
        path = write_lines(tmp_path / f"b{len(order)}.jsonl", order)
        cache = open_token_cache(open_source(path), byte_tokenizer, tmp_path / "c")
        return {order[i] for i in TokenCorpus([cache]).split(0.2, 0.1)[part].selection}

    for part in range(3):
        before = {texts[i] for i in chosen[part]}
        assert place(["a new one", *reversed(texts)], part) - {"a new one"} == before
        assert place(texts[::2], part) == before & set(texts[::2])
