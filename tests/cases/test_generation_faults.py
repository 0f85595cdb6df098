"""``generate`` with a memory does what it does without: the prompt counts, lengths count, rows end, errors say why."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast

from r3mem import Backbone, ConfigError, InputError, Memory, MemoryState, R3Mem, R3MemError, TreeMemory
from r3mem.compressors import AccumulatingSummaries, SelectedKeyValues
from r3mem.hierarchy import Flat
from tests.tiny_models import RATIO, TEXT, WIDTH, tiny_model

GREEDY: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}


@pytest.fixture(params=["hidden states", "keys and values"])
def reader(request: pytest.FixtureRequest) -> R3Mem:
    """Of memories of hidden states, and of keys and values."""
    found: R3Mem = request.getfixturevalue({"hidden states": "model", "keys and values": "selected"}[request.param])
    return found


def new_rows(model: R3Mem, prompt: Any, memory: Memory | None, **options: Any) -> list[list[int]]:
    """New tokens of each row, padding and end marks too."""
    made = model.generate(prompt, memory, return_dict_in_generate=True, **options)
    rows: list[list[int]] = made.sequences.tolist()
    return rows


# -- what reads the prompt -------------------------------------------------------------------------------------------


def test_penalties_know_the_prompt(reader: R3Mem) -> None:
    memory, generator = reader.retain(TEXT), torch.Generator().manual_seed(0)
    prompts = [torch.randint(0, 256, (n,), generator=generator).tolist() for n in (40, 12, 30)]
    firsts = [row[0] for row in new_rows(reader, prompts, memory, **GREEDY)]
    prompts = [[first, *prompt] for first, prompt in zip(firsts, prompts, strict=True)]
    for options in ({"repetition_penalty": 1e3}, {"no_repeat_ngram_size": 1}):
        together = new_rows(reader, prompts, memory, **GREEDY, **options)
        for prompt, row in zip(prompts, together, strict=True):
            assert len({*prompt, *row}) == len(set(prompt)) + len(row), "no token of the prompt, none twice"
        # A shorter prompt's padding forbids nothing.
        assert together == [new_rows(reader, [prompt], memory, **GREEDY, **options)[0] for prompt in prompts]


def test_forbidden_sequences_begin_in_the_prompt(reader: R3Mem) -> None:
    memory = reader.retain(TEXT)
    wanted = {**GREEDY, "max_new_tokens": 1, "sequence_bias": [[[9], 1e4]]}
    assert new_rows(reader, [[5, 6, 7]], memory, **wanted) == [[9]]
    assert new_rows(reader, [[5, 6, 7]], memory, **wanted, bad_words_ids=[[6, 7, 9]]) != [[9]]
    assert new_rows(reader, [[5, 6, 7]], memory, **wanted, bad_words_ids=[[5, 7, 9]]) == [[9]]
    for size, prompt, free in ((2, [7, 9, 6, 7], False), (2, [8, 9, 6, 7], True), (3, [6, 7, 9, 6, 7], False)):
        rows = new_rows(reader, [prompt, [1] * 9], memory, **wanted, no_repeat_ngram_size=size)
        assert (rows[0] == [9]) == free


def test_functions_see_prompt_and_new_tokens(reader: R3Mem) -> None:
    seen: list[list[int]] = []

    def allowed(_: int, ids: torch.Tensor) -> list[int]:
        seen.append(ids.tolist())
        return [9]

    options = {**GREEDY, "max_new_tokens": 2, "prefix_allowed_tokens_fn": allowed}
    assert new_rows(reader, [[5, 6]], reader.retain(TEXT), **options) == [[9, 9]]
    assert seen == [[5, 6], [5, 6, 9]]


def test_options_that_cannot_see_the_prompt_are_refused(model: R3Mem) -> None:
    for name in ("encoder_repetition_penalty", "encoder_no_repeat_ngram_size", "token_healing"):
        with pytest.raises(InputError, match=f"{name} with a memory: it looks for the prompt's tokens"):
            model.generate("go", model.retain(TEXT), **{name: 2})


def test_memories_of_unequal_length_side_by_side(selected: R3Mem) -> None:
    """Padding of a memory is none of the prompt's."""
    long, short = selected.retain(TEXT), selected.retain("ab")
    options = {**GREEDY, "repetition_penalty": 1e3}
    prompts, memories = [[5, 6, 7], [5, 6, 7, 8, 9]], [long, short]
    made = selected.generate(prompts, memories, **options)
    assert made == [selected.generate(p, m, **options) for p, m in zip(prompts, memories, strict=True)]


# -- lengths ---------------------------------------------------------------------------------------------------------


def test_lengths_count_prompt_and_new_tokens(reader: R3Mem) -> None:
    settings = {"do_sample": False, "eos_token_id": None}
    for memory in (None, reader.retain("ab"), reader.retain(TEXT)):
        assert len(new_rows(reader, [[5, 6]], memory, max_length=30, **settings)[0]) == 28
        assert len(new_rows(reader, [[5, 6]], memory, max_length=3, **settings)[0]) == 1
        config = GenerationConfig(max_length=8, eos_token_id=257)
        assert len(new_rows(reader, [[5, 6]], memory, generation_config=config)[0]) == 6
        with pytest.raises(InputError, match="max_length 2 counts the prompt too, whose 2 tokens leave none"):
            reader.generate([5, 6], memory, max_length=2)


def test_the_least_length_counts_prompt_and_new_tokens(reader: R3Mem) -> None:
    for memory in (None, reader.retain(TEXT)):
        end = new_rows(reader, [[5, 6]], memory, **GREEDY)[0][0]
        options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": end}
        assert len(new_rows(reader, [[5, 6]], memory, **options)[0]) == 1
        row = new_rows(reader, [[5, 6]], memory, **options, min_length=7)[0]
        assert len(row) >= 6 and end not in row[:5]


def test_the_window_is_checked_for_all_new_tokens(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    model = small_window(byte_tokenizer)
    memory = model.retain("x" * 64)
    for options in ({}, {"max_length": 60}, {"generation_config": GenerationConfig(max_new_tokens=20)}):
        with pytest.raises(InputError, match="a prompt of 40 tokens and 20 new ones need"):
            model.generate([1] * 40, memory, reach="records", **options)
        with pytest.warns(UserWarning, match=r"and 5 are read, .* leave 5 positions of 64"):
            assert isinstance(model.generate([1] * 40, memory, **options), str)


# -- where a row ends ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [int, list, tuple, torch.tensor])
@pytest.mark.parametrize("configured", [False, True], ids=["option", "generation_config"])
def test_end_marks_of_every_kind(reader: R3Mem, kind: Callable[[Any], Any], configured: bool) -> None:
    for memory in (None, reader.retain(TEXT)):
        row = new_tokens(reader, [5, 6], memory, **GREEDY)
        end = kind(row[3]) if kind is int else kind([row[3]])
        options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": end}
        options = {"generation_config": GenerationConfig(**options)} if configured else options
        assert new_tokens(reader, [5, 6], memory, **options) == row[: row.index(row[3])]


def new_tokens(model: R3Mem, prompt: list[int], memory: Memory | None, **options: Any) -> list[int]:
    """New tokens of one prompt, without padding and end mark."""
    prefix = None if memory is None else model.compressor.read(model.state(memory, "records"))
    return model.backbone.generate([prompt], prefix, **options)[0]


class Stop:
    """Ends row 0 after so many tokens."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.tensor([b == 0 and input_ids.shape[1] >= self.length for b in range(len(input_ids))])


@pytest.mark.parametrize("pad", [None, 257, 5])
def test_a_criterion_of_the_user_ends_a_row(reader: R3Mem, pad: int | None) -> None:
    prompts = [[5, 6], [7, 8, 9]]
    for memory in (None, reader.retain(TEXT)):
        prefix = None if memory is None else reader.compressor.read(reader.state(memory, "records"))
        both = prefix if prefix is None else reader.compressor.read(two(reader.state(memory, "records")))
        first, second = reader.backbone.generate(prompts, both, **GREEDY)
        options = {**GREEDY, "stopping_criteria": [Stop(3 + 4)]} | ({} if pad is None else {"pad_token_id": pad})
        assert reader.backbone.generate(prompts, both, **options) == [first[:4], second]
        # A token that the model made stays, although it is the one of the padding.
        same = {**options, "pad_token_id": first[3]}
        assert reader.backbone.generate(prompts, both, **same) == [first[:4], second]


def two(state: MemoryState) -> MemoryState:
    """A state twice."""
    segment = state.segment_BK
    return MemoryState(
        state.slots_BKD.repeat(2, 1, 1), state.lengths_B.repeat(2), state.ratio,
        None if segment is None else segment.repeat(2, 1),
    )  # fmt: skip


# -- how much is read ------------------------------------------------------------------------------------------------


def small_window(tokenizer: PreTrainedTokenizerFast, compressor: Any = None) -> R3Mem:
    """A model of 64 positions."""
    backbone = Backbone.wrap(tiny_model(), tokenizer, name="tiny-llama", lora_rank=0)
    backbone.base.config.max_position_embeddings = 64
    compressor = SelectedKeyValues(WIDTH, ratio=RATIO, sinks=1) if compressor is None else compressor
    return R3Mem(backbone, compressor, hierarchy=Flat(16)).eval()


def test_a_state_is_cut_to_the_room(byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch) -> None:
    model, read = small_window(byte_tokenizer), []
    memory = model.retain([i * 7 % 250 for i in range(108)])
    state, compressor = model.state(memory), model.compressor
    real = compressor.read
    monkeypatch.setattr(compressor, "read", lambda m: read.append(m) or real(m))
    with pytest.warns(UserWarning, match=rf"{memory.n_slots} virtual tokens, and 20 are read, .*leave 20 positions of"):
        model.generate([1] * 40, memory, max_new_tokens=5)
    cut = read[-1]
    assert cut.slots_BKD.shape[1] == 20 and int(cut.mask_BK.sum()) == 20
    layout = model.backbone.key_values
    worth_KX, kept_KX = (each.slots_BKD[0, :, layout.width :] for each in (state, cut))
    best_KX = worth_KX.sort(0, descending=True).values[:20]
    assert torch.equal(kept_KX.sort(0, descending=True).values, best_KX), "those worth most, in each head"
    read.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.generate([1] * (64 - len(state.slots_BKD[0]) - 4), memory, max_new_tokens=5)
    assert torch.equal(read[-1].slots_BKD, state.slots_BKD)


def test_a_state_that_cannot_be_cut_gives_the_newest(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    model = small_window(byte_tokenizer, AccumulatingSummaries(WIDTH, RATIO, max_slots=32))
    memory = model.retain([i * 7 % 250 for i in range(108)])
    assert memory.n_slots == 27
    with pytest.warns(UserWarning, match="and 19 are read, those of the newest segments"):
        text = model.generate([1] * 40, memory, **{**GREEDY, "max_new_tokens": 5})
    # 12 tokens in 3 slots at the end, and 4 segments of 4 slots.
    assert text == model.generate([1] * 40, memory.part(-5, 5), **{**GREEDY, "max_new_tokens": 5})


def test_what_does_not_fit_at_all_is_refused_without_a_warning(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    model = small_window(byte_tokenizer)
    memory = model.retain("x" * 64)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with pytest.raises(InputError, match="has 64"):
            model.generate([1] * 60, memory, max_new_tokens=5)


def test_a_warning_points_at_the_line_that_called(selected: R3Mem) -> None:
    memory = selected.retain(TEXT * 4)
    with pytest.warns(UserWarning, match="are read") as told:
        selected.generate("go", memory, max_new_tokens=1)
    assert [warning.filename for warning in told if "are read" in str(warning.message)] == [__file__]


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens 0 is not possible: give at least 1"),
        ({"max_new_tokens": -1}, "max_new_tokens -1 is not possible"),
        ({"max_new_tokens": "3"}, "max_new_tokens '3' is not possible: give a whole number"),
        ({"min_new_tokens": -1}, "min_new_tokens -1 is not possible"),
        ({"generation_config": {"do_sample": False}}, "generation_config is a GenerationConfig, not dict"),
        ({"generation_config": 5}, "generation_config is a GenerationConfig, not int"),
        ({"stop_strings": b"a"}, "stop_strings is a string or a list"),
        ({"stop_strings": 5}, "stop_strings is a string or a list"),
        ({"stop_strings": [""]}, "stop_strings is a string or a list"),
        ({"max_new_token": 5}, "no option 'max_new_token': did you mean 'max_new_tokens'"),
        ({"zzzzzz": 5}, "no option 'zzzzzz': leave it out"),
        ({"num_return_sequences": 2}, "num_return_sequences 2 needs do_sample=True or num_beams=2"),
        ({"num_beams": 0}, "num_beams 0 is not possible"),
        ({"is_assistant": True}, "no is_assistant"),
        ({"eos_token_id": "a"}, "eos_token_id 'a' is not possible"),
        ({"pad_token_id": 10**6}, "pad_token_id 1000000 is outside the vocabulary"),
        ({"stopping_criteria": Stop(1)}, "stopping_criteria is a list"),
        ({"temperature": -1.0, "do_sample": True}, "transformers cannot generate with these options"),
    ],
)
def test_options_that_are_refused(model: R3Mem, options: dict[str, Any], message: str) -> None:
    for memory in (None, model.retain("a")):
        with pytest.raises(InputError, match=message):
            model.generate("go", memory, **options)


def test_memories_and_prompts_that_are_refused(model: R3Mem) -> None:
    memory = model.retain("a")
    for wrong in (5, Path("memory.safetensors"), b"a"):
        with pytest.raises(InputError, match="a memory is a Memory or a TreeMemory, not"):
            model.generate("go", wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="has no levels"):
        model.generate("go", TreeMemory([], []))
    for reach_memory in (None, memory):
        with pytest.raises(ConfigError, match="'all', 'state' or 'records', not 'bogus'"):
            model.generate("go", reach_memory, reach="bogus")
    for large in ([1, 2**70], [[1], [2**70]], range(2**70, 2**70 + 2)):
        with pytest.raises(InputError, match="is outside every vocabulary"):
            model.generate(large, memory)
    with pytest.raises(InputError, match="is outside every vocabulary"):
        model.retain([1, -(2**70)])
    for prompts in ("ab", 5, [1, 2], ["ab"]):
        with pytest.raises(R3MemError, match="token ids"):
            model.backbone.generate(prompts)  # type: ignore[arg-type]
