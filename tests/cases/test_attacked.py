"""What attacks on memories found: texts with leading blanks, modes, odd numbers, joins, data changed in place."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import decoders, normalizers
from torch import nn
from transformers import PreTrainedTokenizerFast

from r3mem import Backbone, ConfigError, FingerprintError, InputError, R3Mem, RecallError
from r3mem.compressors import SelectedKeyValues, VirtualTokens
from r3mem.errors import R3MemError
from r3mem.hierarchy import Document, FixedWindows, Flat, Level
from r3mem.memory import Memory, MemoryState, Segments
from r3mem.memory.tree_memory import TreeMemory
from r3mem.reversible import AutoregressiveDecoder, PositionBinding
from r3mem.search import QueryLikelihood, TreeSearch
from tests.cases.conftest import spaced_tokenizer
from tests.tiny_models import RATIO, SEGMENT, TEXT, WIDTH, awaken_adapters, same_memory, tiny_r3mem


def blank_first_tokenizer() -> PreTrainedTokenizerFast:
    """As of Llama 2 with the blank put in by a normaliser."""
    tokenizer = spaced_tokenizer()
    inner = tokenizer.backend_tokenizer
    inner.pre_tokenizer = None
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


PLAIN = ("a\ufffdb", "\ufffd", "abcdefghijklm nn 漢漢")
BLANKS = (" a\ufffdb", "  \ufffd", " hello 漢" * 9)  # The other tokenizer refuses texts that begin with a blank.


@pytest.mark.parametrize(
    ("tokenizer", "text"),
    [(spaced_tokenizer, text) for text in PLAIN] + [(blank_first_tokenizer, text) for text in PLAIN + BLANKS],
)
def test_a_text_with_broken_characters_begins_as_it_began(
    made: Callable[..., R3Mem], tokenizer: Callable[[], PreTrainedTokenizerFast], text: str
) -> None:
    model = made(tokenizer())
    memory, tree = model.retain(text), model.retain_tree(text)
    assert (model.recall(memory), model.recall_bytes(memory), model.recall(tree)) == (text, text.encode(), text)
    parts = [model.recall_bytes(memory.part(t)) for t in range(len(memory.digests))]
    assert b"".join(parts) == text.encode()
    assert "".join(model.recall(tree, node) for node in tree.leaves) == text
    assert model.recall(model.retain("c\ufffd", memory)) == text + "c\ufffd"


def test_a_mode_switched_while_a_text_is_retained_waits(
    tiny_backbone: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny_backbone(lora_dropout=0.5)
    awaken_adapters(backbone)
    model = tiny_r3mem(backbone).eval()
    expected, got = model.retain(TEXT), list[Any]()
    inside, go_on = threading.Event(), threading.Event()
    forward, plain = model.compressor.forward, nn.Module.train

    def slow(*args: Any, **options: Any) -> Any:
        inside.set()
        assert go_on.wait(30)
        return forward(*args, **options)

    retaining = threading.Thread(target=lambda: got.append(model.retain(TEXT)))

    def between(part: nn.Module, mode: bool = True) -> nn.Module:
        # Where torch's own way is taken, a call begins after whoever switches has looked for calls that run.
        if not inside.is_set():
            retaining.start()
            assert inside.wait(30)
        return plain(part, mode)

    monkeypatch.setattr(model.compressor, "forward", slow)
    monkeypatch.setattr(nn.Module, "train", between)
    model.train()
    assert all(part.training for part in model.modules())
    if not inside.is_set():
        retaining.start()
        assert inside.wait(30)
    for part in (model.compressor, model.decoder, model.decoder.couplings[0], model.backbone, model):
        part.train()  # In the middle of the call.
    go_on.set()
    retaining.join()
    assert same_memory(got[0], expected) and all(part.training for part in model.modules())


@pytest.mark.parametrize("odd", [2.5, True, "4", [], 4.0])
def test_what_is_no_whole_number_is_refused(model: R3Mem, odd: Any) -> None:
    tried: list[Callable[[], Any]] = [
        lambda: model.set_ratio(odd),
        lambda: model.at_ratio(odd).__enter__(),
        lambda: setattr(model.compressor, "ratio", odd),
        lambda: VirtualTokens(WIDTH, odd, write_layer=2, read_layer=1),
        lambda: VirtualTokens(WIDTH, RATIO, write_layer=odd, read_layer=1),
        lambda: SelectedKeyValues(WIDTH, ratio=odd),
        lambda: SelectedKeyValues(WIDTH, sinks=odd),
        lambda: SelectedKeyValues(WIDTH, max_slots=odd),
        lambda: PositionBinding(WIDTH, odd),
        lambda: AutoregressiveDecoder(odd),
        lambda: Flat(odd),
        lambda: Level("a", FixedWindows(), odd),
        lambda: Level("a", FixedWindows(), 8, ratio=odd),
        lambda: model.retain(TEXT, batch_tokens=odd),
        lambda: TreeSearch(model, beam=odd),
        lambda: QueryLikelihood(model, ratio=odd),
        lambda: model.calibrate(segment_tokens=odd),
        lambda: Backbone.wrap(model.backbone.base, model.backbone.tokenizer, lora_rank=odd),
    ]
    for attempt in tried:
        with pytest.raises(ConfigError, match="is not possible: give a whole number"):
            attempt()
    with pytest.raises(InputError, match="give a whole number"):
        MemoryState(torch.zeros(1, 1, WIDTH), torch.tensor([1]), odd)
    assert model.ratio == RATIO and model.recall(model.retain(TEXT)) == TEXT


def test_numbers_that_are_too_small(model: R3Mem) -> None:
    with pytest.raises(ConfigError, match="lora_rank -1 is not possible: give at least 0"):
        Backbone.wrap(model.backbone.base, model.backbone.tokenizer, lora_rank=-1)
    for ratio in (0, -3):
        with pytest.raises(ConfigError, match=f"ratio {ratio} is not possible"):
            model.set_ratio(ratio)
    model.set_ratio(np.int64(8))
    assert type(model.ratio) is int and model.retain(TEXT).ratio == 8


def test_a_tree_goes_on_where_a_text_does(selected: R3Mem) -> None:
    tree, memory = selected.retain_tree("ab cd" * 9), selected.retain("ab cd" * 9)
    assert selected.recall(selected.retain_tree("more", tree)) == "more"
    for goes_on, before in ((selected.retain, memory), (selected.retain_tree, tree)):
        with pytest.raises(InputError, match="stored in float16, what follows it would be in int8"):
            goes_on("more", before, precision="int8")
    selected.compressor.recent = 0.25
    for goes_on, before in ((selected.retain, memory), (selected.retain_tree, tree)):
        with pytest.raises(FingerprintError, match="written with other recent: retain its text again"):
            goes_on("more", before)
    with pytest.raises(InputError, match="it has no level"):
        selected.retain_tree("more", TreeMemory([], []))


def test_only_parts_that_follow_each_other_are_joined(model: R3Mem) -> None:
    memory = model.retain(TEXT)
    records = [memory.part(t) for t in range(len(memory.digests))]
    assert same_memory(Memory.join(records), memory) and model.recall(Memory.join(records)) == TEXT
    middle = Memory.join(records[1:3])
    assert middle.begins == SEGMENT and model.recall_bytes(middle) == TEXT.encode()[SEGMENT : 3 * SEGMENT]
    for wrong, told in (
        ([records[2], records[0]], f"part 1 begins at token 0 of its text, the part before it ends at {3 * SEGMENT}"),
        ([records[0], records[2]], f"part 1 begins at token {2 * SEGMENT} .* ends at {SEGMENT}"),
        ([records[0], records[1], records[1]], f"part 2 begins at token {SEGMENT} .* ends at {2 * SEGMENT}"),
    ):
        with pytest.raises(InputError, match=told):
            Memory.join(wrong)
    apart = Memory.join([model.retain("one"), model.retain("two")])
    assert model.recall(apart) == "onetwo" and model.recall(model.retain("!", apart)) == "onetwo!"


def test_texts_with_a_leading_blank_that_were_retained_apart(made: Callable[..., R3Mem]) -> None:
    model = made(spaced_tokenizer())
    first, second = model.retain("hello"), model.retain("world")
    assert model.recall(Memory.join([first, second])) == "hello world"  # As the docstring of join says.
    assert model.recall(model.retain("world", first)) == "helloworld"


@torch.no_grad()
@pytest.mark.parametrize(
    ("setting", "value"), [("ratio", 2), ("share_dims", 4), ("precision", "float32"), ("scale_group", WIDTH)]
)
def test_settings_of_a_memory_that_change_make_its_state_anew(selected: R3Mem, setting: str, value: Any) -> None:
    memory = selected.retain(TEXT, precision="int8")
    selected.state(memory)
    assert memory.folded is not None and getattr(memory, setting) != value
    setattr(memory, setting, value)

    def read(memory: Memory) -> list[float] | str:
        try:
            return selected.state(memory).slots_BKD.flatten().tolist()
        except (RuntimeError, R3MemError) as refused:
            return type(refused).__name__

    fresh = copy.deepcopy(memory)
    assert fresh.folded is None and read(memory) == read(fresh)
    assert setting != "ratio" or read(memory) == "FingerprintError"


def test_a_tree_with_records_in_other_places(tmp_path: Path, selected: R3Mem) -> None:
    for change, told in (
        (lambda tree: tree.nodes.__setitem__(0, replace(tree.nodes[0], record=1)), "node 0 has record 1"),
        (lambda tree: tree.nodes.pop(), "records and"),
        (lambda tree: tree.levels[0].digests.pop(), "level 0 is not whole"),
    ):
        tree = selected.retain_tree(TEXT)
        assert selected.recall(tree) == TEXT and tree.fault() is None
        change(tree)
        for recalled in (lambda: selected.recall(tree), lambda: selected.recall(tree, 1)):  # noqa: B023
            with pytest.raises(RecallError, match=told):
                recalled()


@pytest.mark.parametrize("kind", ["model", "selected"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_not_read(kind: str, value: float, request: pytest.FixtureRequest) -> None:
    model: R3Mem = request.getfixturevalue(kind)
    memory = model.retain(TEXT)
    memory.data_TKD[-1, 0, -1] = value
    for reading in (
        lambda: model.state(memory),
        lambda: model.state(memory, "records"),
        lambda: model.generate("a", memory, max_new_tokens=2),
        lambda: model.retain("a" * SEGMENT, memory.part(0, len(memory.digests))),
    ):
        with pytest.raises((InputError, RecallError)):
            reading()
    with pytest.raises(InputError, match="hold NaN or infinity"):
        model.state(memory)


def test_a_memory_without_some_of_its_digests(model: R3Mem) -> None:
    for name in ("digests", "corrections"):
        memory = model.retain(TEXT)
        getattr(memory, name).pop()
        for call in (model.recall, model.state, lambda memory: model.retain("a", memory)):
            with pytest.raises(InputError, match=f"it has {len(memory.data_TKD)} records and .* {name}"):
                call(memory)


def test_what_cannot_be_given_is_refused_with_a_word(tmp_path: Path, model: R3Mem) -> None:
    memory, tree = model.retain("a"), model.retain_tree("a")
    tried: list[tuple[Callable[[], Any], str]] = [
        (lambda: TreeSearch(model).search(5, "a"), "a list of TreeMemory"),  # type: ignore[arg-type]
        (lambda: TreeSearch(model).search((t for t in [tree]), "a"), r"give list\(trees\)"),  # type: ignore[arg-type]
        (lambda: TreeSearch(model, template=5), "template 5 is not possible"),  # type: ignore[arg-type]
        (lambda: QueryLikelihood(model, template=5), "template 5 is not possible"),  # type: ignore[arg-type]
        (lambda: Memory.join(5), "list of Memory, not int"),  # type: ignore[arg-type]
        (lambda: Memory.join(m for m in [memory]), r"give list\(...\)"),  # type: ignore[arg-type]
        (lambda: model.push_to_hub(5), "repo_id 5"),  # type: ignore[arg-type]
        (lambda: R3Mem("x"), "the backbone is a Backbone, not str"),  # type: ignore[arg-type]
        (lambda: R3Mem(model.backbone, "x"), "the compressor is a Compressor, not str"),  # type: ignore[arg-type]
        (lambda: R3Mem(model.backbone, model.compressor, 3), "the decoder is a Decoder"),  # type: ignore[arg-type]
        (lambda: R3Mem(model.backbone, hierarchy="x"), "the hierarchy is a Hierarchy"),  # type: ignore[arg-type]
        (lambda: Backbone(5), "backbone 5 names no model"),  # type: ignore[arg-type]
        (lambda: Backbone(lora_rank="4"), "lora_rank '4'"),  # type: ignore[arg-type]
    ]
    for given, told in ((5, "not int"), (None, "not NoneType"), (b"a", "not bytes"), ("a\0b", "a zero character")):
        for call in (
            model.retain_file, Memory.load, memory.save, TreeMemory.load, tree.save, R3Mem.from_pretrained,
            model.save_pretrained,
        ):  # fmt: skip
            tried.append((lambda call=call, given=given: call(given), told))  # type: ignore[misc]
    for attempt, told in tried:
        with pytest.raises((InputError, ConfigError), match=told):
            attempt()


def test_levels_that_share_a_tensor_are_saved(tmp_path: Path, model: R3Mem) -> None:
    memory = model.retain(TEXT)
    tree = model.retain_tree(TEXT)
    tree.levels[0].share_scale_TK = tree.levels[0].rest_scale_TK
    tree.save(tmp_path / "tree.safetensors")
    assert TreeMemory.load(tmp_path / "tree.safetensors") == tree
    for part in (memory.part(0), memory.part(1)):
        part.save(tmp_path / "part.safetensors")
        assert Memory.load(tmp_path / "part.safetensors") == part


@torch.no_grad()
def test_data_with_tables_is_compared_and_hashed(selected: R3Mem, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    text = Segments.pad([[1, 2, 3, 4, 5]])
    one, same = (selected.backbone(text, observe=True) for _ in range(2))
    assert one == same and hash(one) == hash(same)
    other = selected.backbone(Segments.pad([[1, 2, 3, 4, 9]]), observe=True)
    assert one != other and one != replace(one, attention=None) and one.attention is not None
    stored = [selected.stored(torch.full((1, 2, selected.memory_width), n), "int8") for n in (1.0, 1.0, 2.0)]
    assert stored[0] == stored[1] != stored[2] and hash(stored[0]) == hash(stored[1])
    documents = [Document.of(text, byte_tokenizer) for text in ("a b", "a b", "a c")]
    assert documents[0] == documents[1] != documents[2] and hash(documents[0]) == hash(documents[1])
    assert len(set(documents)) == 2


def test_after_a_failed_index_nothing_is_indexed(model: R3Mem, monkeypatch: pytest.MonkeyPatch) -> None:
    for passages in ([], ["a", " "], ["x" * 2000]):  # The last is too long for the model, which is found out later.
        searcher = QueryLikelihood(model)
        searcher.index(["one", "two"])
        with pytest.raises(InputError):
            searcher.index(passages)
        with pytest.raises(InputError, match="nothing is indexed"):
            searcher.rank("one")
