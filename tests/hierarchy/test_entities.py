"""Sentences and mentions: by spaCy, by the rules, kept on disk, with several processes."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sqlite3
import time
import warnings
from pathlib import Path

import pytest
import spacy
from transformers import PreTrainedTokenizerFast

from r3mem import ConfigError
from r3mem.hierarchy import Document, EntityFinder, Mention, entities, entity_pipeline
from r3mem.hierarchy.annotation_cache import TABLE, AnnotationCache
from r3mem.plain_data.components import build, describe

TEXT = "Mr. Darcy left London on Monday.  He rode to Kent.\n\nElizabeth Bennet stayed in Hertfordshire.\n"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("R3MEM_CACHE", str(tmp_path))
    entities._read_lately.cache_clear()
    return tmp_path / "entities" / "annotations.sqlite"


def found(finder: EntityFinder, text: str) -> tuple[list[str], list[tuple[str, str]]]:
    """Sentences up to the next one, and mentions with their kinds."""
    (read,) = finder.read_texts([text])
    ends = [*read.sentences[1:], len(text)]
    return (
        [text[a:b].strip() for a, b in zip(read.sentences, ends, strict=True)],
        [(text[m.start : m.end], m.kind) for m in read.mentions],
    )


def test_the_model(own_cache: Path) -> None:
    sentences, mentions = found(EntityFinder(), TEXT)
    assert sentences == [
        "Mr. Darcy left London on Monday.", "He rode to Kent.", "Elizabeth Bennet stayed in Hertfordshire."
    ]  # fmt: skip
    assert {("Darcy", "PERSON"), ("London", "GPE"), ("Monday", "DATE"), ("Elizabeth Bennet", "PERSON")} <= set(mentions)
    assert set(entity_pipeline.entity_pipeline(None).nlp.pipe_names) == {"senter", "ner"}


def test_the_rules() -> None:
    text = 'The Duke of York met "Sir Tom Ray" on 12 May 1880. Nobody spoke. He left Paris with I.B.M. and 3,000 men.'
    sentences, mentions = found(EntityFinder("rules"), text)
    assert sentences[:2] == ['The Duke of York met "Sir Tom Ray" on 12 May 1880.', "Nobody spoke."]
    assert mentions == [
        ("Duke of York", "NAME"), ("Sir Tom Ray", "NAME"), ("12", "NUMBER"), ("May", "NAME"), ("1880", "NUMBER"),
        ("Paris", "NAME"), ("I.B.M.", "NAME"), ("3,000", "NUMBER"),
    ]  # fmt: skip


def test_without_any_model_a_warning_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entity_pipeline, "MODELS", ("no_such_model",))
    entity_pipeline.entity_pipeline.cache_clear()
    try:
        with pytest.warns(UserWarning, match=r"looked for no_such_model.*spacy download"):
            assert found(EntityFinder(), TEXT) == found(EntityFinder("rules"), TEXT)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found(EntityFinder(), TEXT)
    finally:
        entity_pipeline.entity_pipeline.cache_clear()


def test_a_named_model_is_never_replaced() -> None:
    with pytest.raises(ConfigError, match=r"'no_such_model'.*spacy download no_such_model"):
        found(EntityFinder("no_such_model"), TEXT)


def test_a_pipeline_without_entities(tmp_path: Path) -> None:
    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(ConfigError, match="marks no entities"):
        found(EntityFinder(str(tmp_path / "blank")), TEXT)


def test_a_pipeline_of_ones_own(tmp_path: Path) -> None:
    nlp = spacy.blank("en")
    nlp.add_pipe("entity_ruler").add_patterns([{"label": "HORSE", "pattern": "Elizabeth"}])
    nlp.to_disk(tmp_path / "own")
    sentences, mentions = found(EntityFinder(str(tmp_path / "own")), TEXT)
    assert len(sentences) == 3 and mentions == [("Elizabeth", "HORSE")]


def test_gold_mentions_are_taken_as_they_are(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    gold = [Mention(0, 2, "WORD")]
    read = EntityFinder().read(Document.of(TEXT, byte_tokenizer, mentions=gold))
    assert read.mentions == gold and len(read.sentences) == 3
    assert len(EntityFinder().read(Document.of(TEXT, byte_tokenizer)).mentions) > 3
    assert EntityFinder().read(Document.of(TEXT, byte_tokenizer, mentions=())).mentions == []


@pytest.mark.parametrize("text", ["", " \n\n ", "\n" * 50, "x" * 25_000, "a b " * 6000, "\r\n\r\nBob.\r\n\r\n"])
def test_strange_texts(text: str) -> None:
    (read,) = EntityFinder("rules").read_texts([text])
    assert all(0 <= m.start < m.end <= len(text) for m in read.mentions)
    assert all(not text[start].isspace() for start in read.sentences)
    assert bool(read.sentences) == bool(text.strip())


def test_what_was_found_is_kept(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finder = EntityFinder("rules", batch=2)
    texts = [f"{TEXT}{i} more." for i in range(7)]
    first = list(finder.read_texts(texts))
    # Two paragraphs of the seven texts are the same.
    assert sqlite3.connect(own_cache).execute(f"SELECT COUNT(*) FROM {TABLE}").fetchone() == (1 + 7,)

    def fails(*_: object) -> object:
        raise AssertionError("read again")

    monkeypatch.setattr(entity_pipeline.EntityPipeline, "read", fails)
    assert list(EntityFinder("rules").read_texts(texts)) == first
    assert AnnotationCache("another model").get(texts) == {}
    with pytest.raises(AssertionError, match="read again"):
        list(EntityFinder("rules", cache=False).read_texts(texts))


def test_nothing_is_written_without_cache(own_cache: Path) -> None:
    list(EntityFinder("rules", cache=False).read_texts([TEXT]))
    assert not own_cache.exists()


def test_several_processes_find_the_same() -> None:
    texts = [f"{TEXT}Then {i} men came to Rome." for i in range(12)]
    alone = list(EntityFinder("rules", cache=False).read_texts(texts))
    assert list(EntityFinder("rules", processes=2, batch=3, cache=False).read_texts(texts)) == alone


def write(identity: str, n_rows: int) -> None:
    cache = AnnotationCache(identity)
    for i in range(n_rows):
        cache.put({f"{identity} {i}": [i], f"shared {i}": [i]})


def test_processes_write_at_once() -> None:
    context = multiprocessing.get_context("spawn" if os.name == "nt" else "fork")
    writers = [context.Process(target=write, args=("one", 40)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert AnnotationCache("one").get([f"one {i}" for i in range(40)]) == {f"one {i}": [i] for i in range(40)}


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_writer_that_is_killed_does_no_harm() -> None:
    writer = multiprocessing.get_context("fork").Process(target=write, args=("one", 10**6))
    writer.start()
    while not AnnotationCache("one").get(["one 3"]):
        time.sleep(0.01)
    os.kill(writer.pid or 0, signal.SIGKILL)
    writer.join()
    cache = AnnotationCache("one")
    assert cache.get(["one 1", "one 2"]) == {"one 1": [1], "one 2": [2]}
    cache.put({"after": [7]})
    assert cache.get(["after"]) == {"after": [7]}


def test_a_damaged_file_is_named(own_cache: Path) -> None:
    own_cache.parent.mkdir(parents=True)
    own_cache.write_bytes(b"no database at all" * 100)
    with pytest.raises(ConfigError, match=r"annotations\.sqlite.*Delete the file"):
        list(EntityFinder("rules").read_texts([TEXT]))


def test_described_built_and_pickled() -> None:
    finder = EntityFinder("rules", processes=2, batch=8, cache=False)
    assert describe(build(describe(finder), EntityFinder)) == describe(pickle.loads(pickle.dumps(finder)))
    assert repr(finder) == "EntityFinder(model='rules', processes=2, batch=8, cache=False)"
    with pytest.raises(ConfigError, match="processes 0"):
        EntityFinder(processes=0)
