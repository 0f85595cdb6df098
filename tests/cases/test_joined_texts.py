"""Texts that were fed or recalled in parts join: leading blanks, characters that a cut goes through."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from transformers import PreTrainedTokenizerFast

from r3mem import Backbone, InputError, R3Mem
from r3mem.compressors import VirtualTokens
from r3mem.hierarchy import Document, FixedWindows, Flat, Level, MultiLevel
from r3mem.memory import Memory
from r3mem.reversible import PositionBinding, ReversibleStack
from tests.cases.conftest import pieces_tokenizer, spaced_tokenizer
from tests.tiny_models import SEGMENT, WIDTH, tiny_model, tiny_r3mem

MIXED = "Grüße, 日本語 한국어 👨‍👩‍👧 שלום ไทย नमस्ते 𠮷 �!"  # The replacement character is the text's own.


@pytest.mark.parametrize("second", ["world", " world", "\nhe", "  two", "漢", "</s>he"])
def test_a_text_goes_on_without_a_blank(made: Callable[..., R3Mem], second: str) -> None:
    model = made(spaced_tokenizer())
    for first in ("hello", "hello " * 5, "漢字"):
        memory = model.retain(second, memory=model.retain(first))
        assert model.recall(memory) == first + second
    several = model.retain([second, second], [model.retain("a"), model.retain("b.")])
    assert [model.recall(memory) for memory in several] == ["a" + second, "b." + second]


def test_a_control_string_in_the_vocabulary_goes_on(made: Callable[..., R3Mem]) -> None:
    model = made(pieces_tokenizer())
    assert model.recall(model.retain("b</s>c", memory=model.retain("a"))) == "ab</s>c"


@pytest.mark.parametrize("kind", ["spaced", "bytes"])
def test_records_and_leaves_join(
    made: Callable[..., R3Mem], byte_tokenizer: PreTrainedTokenizerFast, kind: str
) -> None:
    model = made(spaced_tokenizer() if kind == "spaced" else byte_tokenizer)
    text = "he said hello, we all wept. " * 4
    memory = model.retain(text)
    records = range(len(memory.digests))
    assert len(records) > 3 and "".join(model.recall(memory.part(t)) for t in records) == text
    tree = model.retain_tree(text)
    assert "".join(model.recall(tree, n) for n in tree.leaves) == text == model.recall(tree)


@pytest.mark.parametrize("segment", [1, 2, 3, 5, 16, 17])
def test_characters_that_a_cut_goes_through(byte_tokenizer: PreTrainedTokenizerFast, segment: int) -> None:
    model = tiny_r3mem(Backbone.wrap(tiny_model(), byte_tokenizer, lora_rank=0))
    model.hierarchy = Flat(segment)
    tree, memory = model.retain_tree(MIXED), model.retain(MIXED)
    document = Document.of(MIXED, byte_tokenizer)
    parts = [model.recall(tree, n) for n in tree.leaves]
    assert "".join(parts) == MIXED == model.recall(memory) and "".join(parts).count("\ufffd") == 1
    assert parts == [MIXED[document.char(n.start) : document.char(n.end)] for n in map(tree.node, tree.leaves)]
    raw = [model.recall_bytes(memory.part(t)) for t in range(len(memory.digests))]
    assert b"".join(raw) == MIXED.encode()


def test_spaced_pieces_of_bytes(made: Callable[..., R3Mem]) -> None:
    model = made(spaced_tokenizer())
    model.hierarchy = Flat(4)
    tree = model.retain_tree("he 漢字 ll 日本")
    parts = [model.recall(tree, n) for n in tree.leaves]
    assert "".join(parts) == "he 漢字 ll 日本" and not any("\ufffd" in part for part in parts)


def test_records_that_have_bytes_alone_say_so(model: R3Mem) -> None:
    memory = model.retain("x" * (SEGMENT - 1) + "漢字")
    assert model.recall(memory) == "x" * (SEGMENT - 1) + "漢字"
    with pytest.raises(InputError, match=r"a character is cut .* recall_bytes"):
        model.recall(memory.part(0))
    assert model.recall_bytes(memory.part(0)) == b"x" * (SEGMENT - 1) + "漢".encode()[:1]


def test_levels_join(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    levels = [Level("document", FixedWindows(), 32, 4), Level("entity", FixedWindows(), 2, 2)]
    model = R3Mem(
        Backbone.wrap(tiny_model(), byte_tokenizer, lora_rank=0), VirtualTokens(WIDTH, 2, 2, 1),
        ReversibleStack([PositionBinding(WIDTH, 2, share=0.5)]), MultiLevel(levels),
    )  # fmt: skip
    tree = model.retain_tree(MIXED)
    for level in (0, 1):
        nodes = [i for i, node in enumerate(tree.nodes) if node.level == level]
        assert "".join(model.recall(tree, i) for i in nodes) == MIXED


def test_where_a_record_begins_is_kept(model: R3Mem, tmp_path: pytest.TempPathFactory) -> None:
    memory = model.retain("abcd" * 10)
    assert [memory.part(t).begins for t in range(3)] == [0, SEGMENT, 2 * SEGMENT]
    path = tmp_path / "part.safetensors"  # type: ignore[operator]
    memory.part(1).save(path)
    assert Memory.load(path).begins == SEGMENT
