"""What is given at the edge of a public call is checked there, and the error says what to do."""

from __future__ import annotations

import gzip
import logging
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.text_files import read_lines
from r3mem import InputError, Memory, MemoryState, R3Mem, Segments
from r3mem.hierarchy import Document
from r3mem.model import progress
from r3mem.search import BM25, QueryLikelihood, TreeSearch
from tests.tiny_models import SEGMENT, TEXT

IDS = [1, 2, 3]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (b"hello", r"str, not bytes: decode it first, for example data\.decode\('utf-8'\)"),
        (bytearray(b"a"), "not bytearray"),
        (None, "not NoneType"),
        (7, "not int"),
        ({"text": "a"}, "not dict"),
        ([{"role": "user", "content": "a"}], r"text 0 of 1: .* of messages make one string.*'\\n'\.join\(f"),
        ([[{"role": "user", "content": "a"}], "b"], r"text 0 of 2: .* not dict: of messages make one string"),
        (iter(["a", "b"]), "read once, and not here: give list"),
        ((text for text in "ab"), "a generator is read once"),
        (Path("a.txt"), r"a path is not its text: give retain_file\(path\)"),
        ("a \ud83d b", r"half a surrogate pair .* at character 2"),
        ("", "the text is empty"),
        ([], "the text is empty"),
        (["a", "", "b"], "text 1 of 3 is empty"),
        (["a", []], "text 1 of 2 is empty"),
        (["a", b"b"], "text 1 of 2: .* not bytes"),
        (["a", None], "text 1 of 2: .* not NoneType"),
        ([1, "a"], "text 0 of 2: .* not int"),
        ([1.5, 2.0], "text 0 of 2: .* not float"),
        ([[1, 2.5]], r"text 0 of 1: token ids are whole numbers, and number 1 is 2\.5"),
        ([[True, False]], "number 0 is True"),
        (torch.tensor([[1, 2], [3, 4]]), "in 2 dimensions; give a list of rows"),
        (torch.tensor([1.0]), "whole numbers, not torch.float32"),
        (np.array([1.0]), "whole numbers, not float64"),
    ],
)
def test_what_is_no_text(model: R3Mem, given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.retain(given)


def test_what_is_a_text(model: R3Mem) -> None:
    for ids in (IDS, tuple(IDS), range(1, 4), np.array(IDS), torch.tensor(IDS), [np.int64(i) for i in IDS]):
        assert model.recall_ids(model.retain(ids)) == IDS
        assert model.recall_ids(model.retain([ids, "a"])[0]) == IDS
    assert [model.recall_ids(m) for m in model.retain([torch.tensor(IDS), torch.tensor(IDS[:1])])] == [IDS, IDS[:1]]


def test_streams_and_trees(model: R3Mem) -> None:
    for texts, message in (
        ([], "at least one text"), ([IDS, []], "text 1 of 2 is empty"), ("abc", "list of token ids"),
        ([b"abc"], "text 0 of 1: token ids are a list"), (iter([IDS]), "list of token ids"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            model.retain_stream(texts)  # type: ignore[arg-type]
    tokenizer = model.backbone.tokenizer
    for document, message in (
        (b"a", "not bytes"), (None, "not NoneType"), ("", "empty"),
        ([Document.of("a", tokenizer), Document([])], "document 1 of 2 is empty"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            model.retain_tree(document)
    with pytest.raises(InputError, match="goes on from a TreeMemory, not from a Memory"):
        model.retain_tree("a", model.retain("b"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a Memory, not TreeMemory"):
        model.retain("a", model.retain_tree("b"))
    with pytest.raises(InputError, match="a str, not bytes"):
        Document.of(b"a", tokenizer)  # type: ignore[arg-type]


def test_numbers_of_records_and_nodes(model: R3Mem) -> None:
    memory, tree = model.retain(list(range(7 * SEGMENT))), model.retain_tree(TEXT)
    assert (
        model.recall_ids(memory.part(-1)) == model.recall_ids(memory.part(6)) == list(range(6 * SEGMENT, 7 * SEGMENT))
    )
    for first, count in ((99, 1), (7, 1), (-8, 1), (5, 3), (0, 0), (0, -1)):
        with pytest.raises(InputError, match="this memory has 7, 0 to 6"):
            memory.part(first, count)
    with pytest.raises(InputError, match="first '1' is not possible"):
        memory.part("1")  # type: ignore[arg-type]
    n_nodes = len(tree.nodes)
    for use in (tree.memory, tree.children, tree.node, lambda i: model.recall(tree, i)):
        for index in (n_nodes, -1, 999):
            with pytest.raises(InputError, match=f"node {index} is not there: this tree has {n_nodes}"):
                use(index)
    with pytest.raises(InputError, match="only the memory of a tree has nodes"):
        model.recall(memory, 3)
    for given in ("file.safetensors", None, b"x"):
        with pytest.raises(InputError, match="a memory of a text is a Memory, not"):
            model.recall(given)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="batch 0 is not possible"):
        model.recall_ids(memory, batch=0)


def test_what_is_no_memory() -> None:
    with pytest.raises(InputError, match="at least one"):
        Memory.join([])
    with pytest.raises(InputError, match="str is not a Memory"):
        Memory.join(["a"])  # type: ignore[list-item]
    for rows, message in (
        ([], "at least one list"), ([b"ab"], "segment 0: token ids are a list"), (["ab"], "not str"),
        ([[1], [0.5]], r"segment 1: .* number 0 is 0\.5"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            Segments.pad(rows)  # type: ignore[arg-type]
    for ids, lengths in ((torch.zeros(3), torch.zeros(3)), (torch.zeros(2, 3), torch.zeros(2))):
        with pytest.raises(InputError, match=r"make it with Segments\.pad"):
            Segments(ids, lengths)
    with pytest.raises(InputError, match="one length for each of the 2 rows"):
        Segments(torch.zeros(2, 3, dtype=torch.long), torch.zeros(3, dtype=torch.long))
    with pytest.raises(InputError, match="rows, slots and numbers"):
        MemoryState(torch.zeros(2, 3), torch.zeros(2), 4)
    with pytest.raises(InputError, match="one length for each of the 1 rows"):
        MemoryState(torch.zeros(1, 2, 3), torch.zeros(2), 4)
    with pytest.raises(InputError, match="ratio 0"):
        MemoryState(torch.zeros(1, 2, 3), torch.zeros(1), 0)
    for make in (lambda: MemoryState.stacked([]), lambda: MemoryState.one_after_the_other([], 4)):
        with pytest.raises(InputError, match="at least one"):
            make()


# -- files -----------------------------------------------------------------------------------------------------------


def test_files_are_kept_byte_for_byte(model: R3Mem, tmp_path: Path) -> None:
    data = "\ufeffTitle\r\n\r\n  one\rtwo\n\ttab ﬁ ① \n".encode()
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    memory = model.retain_file(path)
    assert model.recall(memory).encode() == data and model.recall(memory) != path.read_text(encoding="utf-8")
    assert model.recall(model.retain_file(str(path), memory)).encode() == data * 2
    path.write_bytes(b"abc\xff")
    with pytest.raises(InputError, match="byte 0xff at byte offset 3 is not UTF-8"):
        model.retain_file(path)
    for data, message in (
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", r"a picture \(PNG\), not a text: take the text out of it first"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", r"a picture \(JPEG\)"),
        (b"%PDF-1.7\nplain as it is", "a PDF, not a text"),
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF, not a text"),
        (b"PK\x03\x04\x14\x00\xff", r"an archive \(ZIP, as .docx"),
        (b"\x07\x00\xfe", "a.txt is binary, not a text"),
        ("Ein Wort".encode("utf-16"), "byte 0xff at byte offset 0 is not UTF-8; .* iconv -f UTF-16 -t UTF-8"),
        (b"GIF89\xe4hnlich", r"a picture \(GIF\)"),
        (b"na\xefve", "byte 0xef at byte offset 2 is not UTF-8; .* iconv -f ISO-8859-1 -t UTF-8"),
    ):
        path.write_bytes(data)
        with pytest.raises(InputError, match=message):
            model.retain_file(path)
        with pytest.raises(InputError, match=message):
            list(read_lines(path))
        packed = tmp_path / "a.txt.gz"
        packed.write_bytes(gzip.compress(data))
        with pytest.raises(InputError) as refused:
            list(read_lines(packed))
        assert re.search(message, str(refused.value).replace(".gz", "").replace(" of the unpacked text", ""))
    for text in ("%PDF is a format", "GIF89 is another", "one \0 byte"):
        path.write_text(text)
        assert model.recall(model.retain_file(path)) == text == "".join(read_lines(path))
    path.write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
        model.retain_file(path)
    with pytest.raises(InputError, match="cannot be read"):
        model.retain_file(tmp_path / "none")


# -- long calls ------------------------------------------------------------------------------------------------------


def test_how_far_a_call_is_goes_to_the_log(
    model: R3Mem, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, "r3mem")
    text = "a" * 5 * SEGMENT
    model.retain(text)
    model.retain_tree(text)
    assert not caplog.messages, "short calls say nothing"
    seconds = iter(range(0, 9999, 4))  # Each look at the clock is four seconds later.
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    memory = model.retain([text, text[:SEGMENT]])
    assert [m.n_tokens for m in memory] == [5 * SEGMENT, SEGMENT]
    assert caplog.messages == [
        "retain: 3 of 6 segments, 0.25 segments/s, 0:12 left", "retain: 6 of 6 segments, 0.25 segments/s, took 0:24",
    ]  # fmt: skip
    caplog.clear()
    model.retain_tree(text)
    assert caplog.messages[-1] == "retain_tree: 5 of 5 nodes, 0.25 nodes/s, took 0:20"
    assert capfd.readouterr() == ("", "")


# -- search ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda _: BM25(stopwords=None), lambda model: QueryLikelihood(model)])
def test_searchers(model: R3Mem, make: Callable[[R3Mem], Any]) -> None:
    searcher = make(model)
    for passages, message in (
        ("abc", "one string"), (iter(["a"]), "give list"), (["a", b"b"], "passage 1 is a str, not bytes"),
        (["a", None], "passage 1 is a str, not NoneType"), (["a", "\ud800"], "half a surrogate"),
        (["a", " "], "passage 1 is empty"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            searcher.index(passages)
    searcher.index(["a word", "another word"])
    for query, message in (
        (b"a", "the query is a str, not bytes"),
        (None, "not NoneType"),
        ("\ud800", "half a surrogate"),
    ):
        with pytest.raises(InputError, match=message):
            searcher.rank(query)


def test_searching_trees(model: R3Mem) -> None:
    tree, search = model.retain_tree(TEXT), TreeSearch(model)
    for memories, query, options, message in (
        (tree, "a", {}, "a list of TreeMemory"), ([model.retain("a")], "a", {}, "a list of TreeMemory"),
        ([tree], b"a", {}, "not bytes"), ([tree], "a", {"k": 0}, "k 0"), ([tree], "a", {"level": 5}, "have 1, 0 to 0"),
        ([tree], "x" * 1050, {}, r"a query of 1061 tokens .* has 1024: shorten the query of 1,050 characters"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            search.search(memories, query, **options)
    hits = search.search([tree], "x" * 990)
    assert len(hits) == 5 and all(np.isfinite(hit.score) for hit in hits)


def test_a_query_of_many_tokens_is_refused_with_its_numbers(model: R3Mem) -> None:
    searcher = QueryLikelihood(model)
    searcher.index(["a word"])
    with pytest.raises(InputError, match="a query of 10511 tokens need 10517 positions, tiny-llama has 1024"):
        searcher.rank("x" * 10_500)
