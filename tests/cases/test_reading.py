"""What ``generate`` reads and takes: all of a memory by default, trees, chats, transformers' options."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast

from r3mem import Backbone, ConfigError, FingerprintError, InputError, Memory, MemoryState, R3Mem
from r3mem.compressors import SelectedKeyValues, VirtualTokens
from r3mem.hierarchy import FixedWindows, Flat, Level, MultiLevel
from r3mem.memory import Segments
from r3mem.memory.states import joined
from r3mem.reversible import AttentionCoupling, PositionBinding, ReversibleStack
from r3mem.search import TreeSearch
from tests.cases.conftest import spaced_tokenizer
from tests.tiny_models import RATIO, SEGMENT, TEXT, WIDTH, tiny_model, tiny_r3mem

GREEDY: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[MemoryState]:
    """The states that a compressor was asked to read, in order."""
    found: list[MemoryState] = []
    for kind in (VirtualTokens, SelectedKeyValues):
        real = kind.read

        def noting(self: Any, memory: MemoryState, real: Any = real) -> Any:
            found.append(memory)
            return real(self, memory)

        monkeypatch.setattr(kind, "read", noting)
    return found


# -- how much is read ------------------------------------------------------------------------------------------------


def test_all_of_a_memory_is_read(model: R3Mem, read: list[MemoryState]) -> None:
    """A last segment of 4 tokens, as in the README's first example, is not all that was retained."""
    memory = model.retain(list(range(6 * SEGMENT + 4)))
    read.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        text = model.generate("go", memory, **GREEDY)
    assert read[-1].mask_BK.sum() == memory.n_slots == 25
    assert text == model.generate("go", memory, reach="records", **GREEDY)
    assert text != model.generate("go", memory, reach="state", **GREEDY)


def test_where_not_all_fits_the_newest_are_read(model: R3Mem, read: list[MemoryState]) -> None:
    memory = model.retain([i % 250 for i in range(70 * SEGMENT)])
    assert memory.n_slots == 280, "each takes the positions of the tokens that it stands for"
    read.clear()
    with pytest.warns(
        UserWarning, match="holds 280 virtual tokens, and 252 are read, .*newest segments: .* leave 1015 positions"
    ):
        text = model.generate("go", memory, **GREEDY)
    newest = model.state(memory.part(-63, 63), "records")
    assert 63 * SEGMENT <= 1015 < 64 * SEGMENT and isinstance(text, str)
    assert torch.equal(read[-1].slots_BKD, newest.slots_BKD)
    with pytest.raises(InputError, match="1024"):
        model.generate("go", memory, reach="records", **GREEDY)


def test_a_compressor_that_accumulates_reads_its_state(selected: R3Mem, read: list[MemoryState]) -> None:
    short, long = selected.retain(TEXT), selected.retain(TEXT * 4)
    read.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        selected.generate("go", short, **GREEDY)
    assert short.n_slots <= 24 and torch.equal(read[0].slots_BKD, selected.state(short).slots_BKD)
    read.clear()
    with pytest.warns(
        UserWarning, match=f"holds {long.n_slots} virtual tokens, and 24 are read, those of all segments"
    ):
        selected.generate("go", long, **GREEDY)
    assert torch.equal(read[0].slots_BKD, selected.state(long).slots_BKD) and read[0].slots_BKD.shape[1] == 24
    with pytest.raises(ConfigError, match="'all', 'state' or 'records'"):
        selected.generate("go", short, reach="everything")


# -- trees -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def levelled(byte_tokenizer: PreTrainedTokenizerFast) -> R3Mem:
    levels = [Level("document", FixedWindows(), 32, 8), Level("entity", FixedWindows(), 12, 4)]
    return R3Mem(
        Backbone.wrap(tiny_model(), byte_tokenizer, lora_rank=0), VirtualTokens(WIDTH, 2, 2, 1),
        ReversibleStack([PositionBinding(WIDTH, 2, share=0.5)]), MultiLevel(levels),
    ).eval()  # fmt: skip


def test_nodes_and_trees_are_read_at_their_ratio(levelled: R3Mem, read: list[MemoryState]) -> None:
    tree = levelled.retain_tree(TEXT)
    for i, node in enumerate(tree.nodes):
        read.clear()
        assert isinstance(levelled.generate("go", tree.memory(i), **GREEDY), str)
        assert read[-1].ratio == (8, 4)[node.level] and read[-1].mask_BK.sum() == tree.memory(i).n_slots
    assert levelled.ratio == 2
    whole = levelled.generate("go", tree, **GREEDY)
    assert read[-1].mask_BK.sum() == tree.levels[1].n_slots, "the finest level"
    coarse, fine = tree.memory(0), tree.memory(len(tree.nodes) - 1)
    several = levelled.generate(["go", "come", "go"], [tree, coarse, fine], **GREEDY)
    assert several == [whole, levelled.generate("come", coarse, **GREEDY), levelled.generate("go", fine, **GREEDY)]
    with pytest.raises(InputError, match=r"ratios \[4, 8\] are read apart"):
        levelled.generate(["a", "b"], [coarse, fine], return_dict_in_generate=True)


def test_a_tree_that_several_prompts_read_is_unpacked_once(levelled: R3Mem, monkeypatch: pytest.MonkeyPatch) -> None:
    tree, unpacked, plain = levelled.retain_tree(TEXT), list[Memory](), levelled.state
    monkeypatch.setattr(levelled, "state", lambda memory, *more: unpacked.append(memory) or plain(memory, *more))
    one = levelled.generate("go", tree, **GREEDY)
    for_one = len(unpacked)
    assert levelled.generate(["go"] * 3, [tree] * 3, **GREEDY) == [one] * 3
    assert len(unpacked) == 2 * for_one


def test_a_tree_too_large_is_read_at_a_coarser_level(levelled: R3Mem, read: list[MemoryState]) -> None:
    tree = levelled.retain_tree("word and " * 111)  # 999 tokens; windows of 12 and of 32 end in open slots.
    sizes = [level.n_slots * level.ratio for level in tree.levels]
    room = levelled.backbone.max_positions - 2 - 8 + 1
    tree.levels[1] = Memory.join([tree.levels[1], tree.levels[1]])
    read.clear()
    levelled.generate("go", tree, **GREEDY)
    assert sizes[0] <= room < 2 * sizes[1] and read[-1].ratio == 8
    assert read[-1].mask_BK.sum() == tree.levels[0].n_slots


@pytest.mark.filterwarnings("ignore:this memory holds")
@pytest.mark.parametrize("kind", ["model", "selected"])
@torch.no_grad()
def test_a_memory_is_read_at_its_own_ratio(kind: str, request: pytest.FixtureRequest) -> None:
    model: R3Mem = request.getfixturevalue(kind)
    memory = model.retain(TEXT)
    question = Segments.pad([list(b"go on")])
    text, states = model.generate("go", memory, **GREEDY), [model.state(memory, each) for each in ("state", "records")]
    likely = [model.likelihood(question, state) for state in states]
    for ratio in (2, 8):
        with model.at_ratio(ratio):
            other = model.retain(TEXT)
            there = [model.state(memory, each) for each in ("state", "records")]
            assert [state.ratio for state in there] == [RATIO, RATIO] != [other.ratio] * 2
            for state, expected, logits in zip(there, states, likely, strict=True):
                assert torch.equal(state.slots_BKD, expected.slots_BKD)
                assert torch.equal(state.lengths_B, expected.lengths_B)
                assert torch.equal(model.likelihood(question, state), logits)
            assert model.generate("go", memory, **GREEDY) == text
            assert model.recall(memory) == model.recall(other) == TEXT and model.ratio == ratio
            alone = model.generate("go", other, **GREEDY)
            assert model.generate(["go", "go"], [memory, other], **GREEDY) == [text, alone]
        assert model.generate("go", other, **GREEDY) == alone and model.ratio == RATIO


def test_memories_of_a_ratio_that_a_model_cannot_have_are_refused(tiny_backbone: Callable[..., Backbone]) -> None:
    def tied(ratio: int) -> R3Mem:
        stack = ReversibleStack([PositionBinding(WIDTH, ratio, 0.5), AttentionCoupling(WIDTH, ratio)])
        return R3Mem(tiny_backbone(), VirtualTokens(WIDTH, ratio, 2, 1), stack, Flat(SEGMENT)).eval()

    model, maker = tied(4), tied(8)
    memory, tree = maker.retain(TEXT), maker.retain_tree(TEXT)
    for call in (
        lambda: model.state(memory), lambda: model.recall(memory), lambda: model.generate("go", memory),
        lambda: model.recall(tree), lambda: model.generate("go", tree), lambda: TreeSearch(model).search([tree], "go"),
    ):  # fmt: skip
        with pytest.raises(FingerprintError, match=r"ratio 8, .* at 4 here and cannot work at .*tied to ratio 4"):
            call()
    # A tree of a ratio that the model can have is searched at it, whatever ratio the model is at.
    free = tiny_r3mem(tiny_backbone())
    other = free.retain_tree(TEXT)
    hits = TreeSearch(free).search([other], "go")
    with free.at_ratio(8):
        assert TreeSearch(free).search([other], "go") == hits and free.recall(other) == TEXT


def test_what_is_not_read_at_its_own_ratio(model: R3Mem) -> None:
    """Records of one memory, and rows of one state, have one ratio."""
    with model.at_ratio(8):
        memory = model.retain(TEXT)
    for going_on in (model.retain, lambda text, memory: next(model.retain_stream([[1]], [memory]))):
        with pytest.raises(FingerprintError, match=r"written at ratio 8, the model is at 4 here.*at_ratio\(8\)"):
            going_on("more", memory)
    with pytest.raises(InputError, match=r"ratios \[4, 8\] are no one state"):
        joined([model.state(memory), None, model.state(model.retain(TEXT))])
    # Where more than the ratio is another, that is told.
    memory.fingerprint = {**memory.fingerprint, "backbone": "other"}
    for call in (model.state, lambda memory: model.retain("more", memory)):
        with pytest.raises(FingerprintError, match="another backbone"):
            call(memory)
    with pytest.raises(InputError, match="a Memory or a TreeMemory, not str"):
        model.generate("go", ["file.safetensors"])  # type: ignore[list-item]


def test_a_stream_keeps_the_ratio_that_it_was_begun_at(model: R3Mem) -> None:
    memory = model.retain(TEXT)
    stream = model.retain_stream([model.tokens(TEXT)], [memory])
    first = next(stream)[1]
    model.set_ratio(8)
    later = [record for _, record in stream]
    assert later and {record.ratio for record in (first, *later)} == {RATIO}
    model.set_ratio(RATIO)
    assert model.recall(Memory.join([memory, first, *later])) == TEXT * 2


# -- prompts and options ---------------------------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["alone", "memory"])
def options(request: pytest.FixtureRequest, model: R3Mem) -> dict[str, Any]:
    """Greedy options, without and with a memory."""
    return {**GREEDY, "memory": model.retain(TEXT)} if request.param else GREEDY


def test_several_continuations_of_each_prompt(model: R3Mem, options: dict[str, Any]) -> None:
    beams = {**options, "num_beams": 3, "num_return_sequences": 2}
    found = model.generate("go", **beams)
    assert len(found) == 2 and found[0] != found[1]
    both = model.generate(["go", "come on"], **beams)
    assert [len(each) for each in both] == [2, 2] and both[0] == found
    assert model.generate("go", **{**options, "num_beams": 3}) == found[0]


def test_transformers_output(model: R3Mem, options: dict[str, Any]) -> None:
    plain = model.generate(["go", "come on"], **options)
    told = model.generate(["go", "come on"], **options, return_dict_in_generate=True, output_scores=True)
    assert told.texts == told["texts"] == plain and told.sequences.shape == (2, 8) and len(told.scores) == 8
    assert model.generate("go", **options, return_dict_in_generate=True).texts == model.generate("go", **options)


def test_stop_strings(model: R3Mem, options: dict[str, Any]) -> None:
    texts = model.generate(["go", "come on"], **options)
    stop = next(char for char in texts[0] if char.isascii())
    expected = [text[: text.index(stop) + 1] if stop in text else text for text in texts]
    assert expected != texts and model.generate(["go", "come on"], **options, stop_strings=[stop]) == expected
    in_config = GenerationConfig(max_new_tokens=8, do_sample=False, stop_strings=[stop], eos_token_id=256)
    rest = {key: value for key, value in options.items() if key == "memory"}
    assert model.generate(["go", "come on"], **rest, generation_config=in_config) == expected


def test_padding_and_cache(model: R3Mem, options: dict[str, Any]) -> None:
    texts = model.generate(["go", "come on"], **options)
    assert model.generate(["go", "come on"], **options, pad_token_id=257) == texts
    if "memory" not in options:
        assert model.generate(["go", "come on"], **options, cache_implementation="static") == texts


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ({"cache_implementation": "static"}, "cache_implementation 'static' with a memory: its keys and values"),
        ({"generation_config": GenerationConfig(cache_implementation="static")}, "cache_implementation 'static'"),
        ({"use_cache": False}, "use_cache=False with a memory"),
        ({"prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens with a memory: it runs passes of its own"),
        ({"assistant_model": object()}, "assistant_model with a memory"),
        ({"guidance_scale": 2.0}, "guidance_scale with a memory"),
        ({"inputs_embeds": torch.zeros(1, 1, 32)}, "inputs_embeds: they are made"),
        ({"attention_mask": None, "input_ids": None}, "attention_mask, input_ids: they are made"),
        ({"slots": 0}, "slots 0 is not possible"),
        ({"slots": 2.5}, r"slots 2\.5 is not possible"),
    ],
)
def test_options_that_are_refused_by_name(model: R3Mem, option: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        model.generate("go", model.retain(TEXT), **option)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "prompt is empty: give at least one token, or a list"), ("", "the prompt is empty"),
        (["a", ""], "prompt 1 of 2 is empty"), (None, "a prompt is a str"), (b"a", "decode it first"),
        (iter(["a"]), "read once"), ("\ud83d", "half a surrogate pair"),
        ([{"role": "user", "content": "a"}], "no chat template"),
    ],
)  # fmt: skip
def test_prompts_that_are_refused(model: R3Mem, prompt: Any, message: str) -> None:
    for memory in (None, model.retain("a")):
        with pytest.raises(InputError, match=message):
            model.generate(prompt, memory)


def test_prompts_of_ids_and_of_messages(
    made: Callable[..., R3Mem], chat_tokenizer: PreTrainedTokenizerFast, options: dict[str, Any]
) -> None:
    model = made(chat_tokenizer)
    rest: dict[str, Any] = {**GREEDY, "memory": model.retain(TEXT)} if "memory" in options else GREEDY
    chat = [{"role": "user", "content": "Hi"}]
    rendered = chat_tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = chat_tokenizer(rendered, add_special_tokens=False).input_ids
    text = model.generate(chat, **rest)
    assert text == model.generate(ids, **rest) and isinstance(text, str)
    longer = [*chat, {"role": "assistant", "content": "Yes?"}]
    assert model.generate([chat, longer], **rest) == [text, model.generate(longer, **rest)]


def test_a_continuation_keeps_its_leading_blank(made: Callable[..., R3Mem], monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(spaced_tokenizer())
    he = model.backbone.tokenizer.convert_tokens_to_ids("▁he")
    monkeypatch.setattr(
        model.backbone.model, "generate", lambda **given: torch.cat([given["input_ids"], torch.tensor([[he, he]])], 1)
    )
    assert model.generate("hello", max_new_tokens=2) == " he he"
