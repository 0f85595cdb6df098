"""The whole path: retain, recall, read, generate.

Shape legend: B batch, N text tokens, T segments of one text, K virtual tokens, D width.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import pytest
import torch
from tokenizers import normalizers
from transformers import PreTrainedTokenizerFast

from r3mem import Backbone, ConfigError, FingerprintError, InputError, Memory, R3Mem, RecallError, Segments
from r3mem.backbone.evaluation_mode import evaluating
from r3mem.compressors import VirtualTokens
from r3mem.hierarchy import Flat
from r3mem.reversible import AttentionCoupling, PositionBinding, ReversibleStack
from tests.tiny_models import (
    RATIO,
    SEGMENT,
    TEXT,
    VOCABULARY,
    WIDTH,
    awaken_adapters,
    same_memory,
    tiny_model,
    tiny_r3mem,
)


@pytest.fixture
def model(tiny_backbone: Callable[..., Backbone]) -> R3Mem:
    torch.manual_seed(0)
    made = tiny_r3mem(tiny_backbone())
    awaken_adapters(made.backbone)
    made.calibrate(segment_tokens=SEGMENT, segments=16)
    return made


# -- retain and recall -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
@pytest.mark.parametrize("text", [TEXT, "x", TEXT * 20, "\x00\t \n"], ids=["text", "one", "long", "blank"])
def test_recall_is_exact(model: R3Mem, text: str, precision: str) -> None:
    memory = model.retain(text, precision=precision)
    assert model.recall(memory) == text
    n_tokens = len(text.encode())
    assert memory.n_tokens == n_tokens and len(memory.lengths_T) == -(-n_tokens // SEGMENT)
    assert memory.data_TKD.dtype == getattr(torch, precision)


def test_recall_of_ids_and_of_batches(model: R3Mem) -> None:
    random.seed(0)
    rows = [[random.randrange(VOCABULARY) for _ in range(n)] for n in (1, 70, 16, 33)]
    memories = model.retain(rows)
    assert [model.recall_ids(memory) for memory in memories] == rows
    assert model.recall_ids(model.retain(tuple(rows[1]))) == rows[1]
    assert model.recall_ids(model.retain(torch.tensor(rows[1]))) == rows[1]
    mixed = model.retain([TEXT, rows[1]])
    assert model.recall(mixed[0]) == TEXT and model.recall_ids(mixed[1]) == rows[1]
    for memory, row in zip(memories, rows, strict=True):
        # The loudest coordinate of a slot is stored above 2**14; half a unit is a rounding in the pass of a batch.
        torch.testing.assert_close(memory.data_TKD, model.retain(row).data_TKD, atol=0.5, rtol=2e-2)


def test_recall_of_tokens_whose_embeddings_are_equal(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    llama = tiny_model()
    with torch.no_grad():
        llama.get_input_embeddings().weight[100:140] = llama.get_input_embeddings().weight[100]
    model = tiny_r3mem(Backbone.wrap(llama, byte_tokenizer, lora_rank=0))
    ids = [*range(90, 150), *range(139, 99, -1)]
    memory = model.retain(ids)
    assert model.recall_ids(memory) == ids and sum(memory.wrong) == 0


def test_words_too_many_for_their_dimensions_come_back_by_corrections(tiny_backbone: Callable[..., Backbone]) -> None:
    model = tiny_r3mem(tiny_backbone(), share=RATIO / WIDTH)
    assert model.decoder.couplings[0].code_dims == 1
    memory = model.retain(TEXT * 3, precision="int8")
    assert sum(memory.wrong) > 0 and memory.correction_bits > 0
    assert model.recall(memory) == TEXT * 3


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_recall_in_pieces_of_any_size_through_several_couplings(
    tiny_backbone: Callable[..., Backbone], batch: int
) -> None:
    stack = ReversibleStack([PositionBinding(WIDTH, RATIO, 0.5), AttentionCoupling(WIDTH, RATIO)])
    model = R3Mem(tiny_backbone(), VirtualTokens(WIDTH, RATIO, 2, 1), stack, Flat(SEGMENT))
    ids = list(TEXT.encode() * 2)[: 5 * SEGMENT + 3]
    assert model.recall_ids(model.retain(ids), batch=batch) == ids


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_going_on_from_a_memory_is_going_on(model: R3Mem, precision: str) -> None:
    ids = list((TEXT * 2).encode())[: 4 * SEGMENT + 5]
    whole = model.retain(ids, precision=precision)
    head = model.retain(ids[: 2 * SEGMENT], precision=precision)
    assert same_memory(model.retain(ids[2 * SEGMENT :], memory=head, precision=precision), whole)
    last = model.retain(ids[2 * SEGMENT :], memory=head.part(-1), precision=precision, records="last")
    assert same_memory(last, whole.part(-2, 2)), "the last, which is open, and the one it is written again with"
    alone = model.retain(ids[2 * SEGMENT :], precision=precision)
    assert not torch.equal(alone.data_TKD[0], whole.data_TKD[2])


def test_the_last_record_alone_is_the_state(model: R3Mem) -> None:
    whole, last = model.retain(TEXT), model.retain(TEXT, records="last")
    assert same_memory(whole.part(-2, 2), last) and len(last.lengths_T) == 2, "an open record, and the one before it"
    assert TEXT.encode().endswith(model.recall_bytes(last.part(-1)))
    full = list(TEXT.encode()[: 2 * SEGMENT])
    assert same_memory(model.retain(full).part(-1), model.retain(full, records="last"))
    assert torch.equal(model.state(whole).slots_BKD, model.state(last).slots_BKD)
    assert model.retain(TEXT * 9, records="last").data_TKD.shape[0] == 2


def test_the_seen_size_of_a_memory(model: R3Mem) -> None:
    memory = model.retain(list(range(2 * SEGMENT + 5)), precision="int8")
    assert memory.n_slots == 4 + 4 + 2 and memory.data_TKD.shape == (3, 4, WIDTH)
    assert memory.nbytes == 10 * (WIDTH + 8) + memory.correction_bits // 8 + 3 * 8


def test_parts_stay_in_the_mode_they_were_in(tiny_backbone: Callable[..., Backbone]) -> None:
    """GPT-2 comes with dropout: on in the middle of a memory it would go unseen, and off for good it would too."""
    model = tiny_r3mem(tiny_backbone("gpt2"))
    model.train()
    model.backbone.base.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    assert same_memory(model.retain(TEXT), model.retain(TEXT))
    prompts = {model.generate("abc", model.retain(TEXT), max_new_tokens=8, do_sample=False) for _ in range(3)}
    model.calibrate(segment_tokens=8, segments=2)
    with pytest.raises(InputError):
        model.retain("")
    assert len(prompts) == 1 and len(set(modes.values())) == 2
    assert {name: module.training for name, module in model.named_modules() if name in modes} == modes


# -- what is refused -------------------------------------------------------------------------------------------------


def test_damage_is_found(model: R3Mem) -> None:
    random.seed(1)
    found = 0
    for precision in ("float32", "float16", "int8"):
        whole = model.retain(TEXT, precision=precision)
        for trial in range(25):
            memory = copy.deepcopy(whole)
            part = ("data_TKD", "share_scale_TK")[trial % 2]
            raw = getattr(memory, part).contiguous().view(torch.uint8).flatten()
            raw[random.randrange(len(raw))] ^= 1 << random.randrange(8)
            setattr(memory, part, raw.view(getattr(memory, part).dtype).view(getattr(memory, part).shape))
            try:
                # Damage outside of the words leaves them whole; nothing else may come back.
                assert model.recall(memory) == TEXT
            except RecallError:
                found += 1
    assert 10 < found < 75


@pytest.mark.parametrize(
    "damage",
    [
        lambda m: m.data_TKD.__setitem__(0, m.data_TKD[0].flip(0)),
        lambda m: m.data_TKD.fill_(float("nan")),
        lambda m: m.share_scale_TK.fill_(float("inf")),
        lambda m: m.digests.__setitem__(0, m.digests[0] ^ 1),
        lambda m: m.corrections.__setitem__(0, b"\x00\x01\x05\xff\x01"),
        lambda m: m.corrections.__setitem__(0, b"nonsense"),
        lambda m: m.lengths_T.__setitem__(0, 15),
        lambda m: m.lengths_T.__setitem__(0, 400),
        lambda m: m.lengths_T.__setitem__(0, -1),
    ],
    ids=["slots", "nan", "inf", "digest", "correction", "packing", "shorter", "longer", "negative"],
)
def test_damaged_memory_gives_no_text(model: R3Mem, damage: Callable[[Memory], None]) -> None:
    memory = model.retain(TEXT)
    damage(memory)
    with pytest.raises(RecallError):
        model.recall(memory)


def test_lost_corrections_are_found(tiny_backbone: Callable[..., Backbone]) -> None:
    model = tiny_r3mem(tiny_backbone(), share=RATIO / WIDTH)
    memory = model.retain(TEXT, precision="int8")
    memory.corrections = [b""] * len(memory.corrections)
    with pytest.raises(RecallError, match="do not match the digest"):
        model.recall(memory)


def test_memory_of_another_model_is_refused_by_name(model: R3Mem, tiny_backbone: Callable[..., Backbone]) -> None:
    memory = model.retain(TEXT)
    other_backbone = tiny_r3mem(tiny_backbone(seed=1))
    other_stack = tiny_r3mem(tiny_backbone(), share=0.25)
    for other, name in ((other_backbone, "another backbone"), (other_stack, "another stack")):
        for use in (
            other.recall,
            other.state,
            lambda m, o=other: o.retain(TEXT, m),
            lambda m, o=other: o.generate("a", m),
        ):
            with pytest.raises(FingerprintError, match=name):
                use(memory)


def test_a_model_of_another_ratio_reads_a_memory_and_does_not_go_on_from_it(
    tiny_backbone: Callable[..., Backbone],
) -> None:
    model, other = tiny_r3mem(tiny_backbone()), tiny_r3mem(tiny_backbone(), ratio=8)
    memory = model.retain(TEXT)
    assert other.recall(memory) == TEXT
    assert torch.equal(other.state(memory).slots_BKD, model.state(memory).slots_BKD)
    greedy = {"memory": memory, "max_new_tokens": 4, "do_sample": False}
    assert other.generate("a", **greedy) == model.generate("a", **greedy)
    with pytest.raises(FingerprintError, match="written at ratio 4, the model is at 8 here"):
        other.retain(TEXT, memory)


def test_a_memory_that_needs_a_prior_is_refused_by_name(model: R3Mem) -> None:
    memory = model.retain(TEXT)
    assert memory.fingerprint["prior"] == "none"
    memory.fingerprint = {**memory.fingerprint, "prior": "0f0f0f0f0f0f0f0f"}
    for use in (model.recall, model.state, lambda m: model.retain(TEXT, m)):
        with pytest.raises(FingerprintError, match=r"needs the LanguageModelPrior.*the version that made it"):
            use(memory)


def test_text_that_cannot_be_retained(model: R3Mem) -> None:
    for empty in ("", [], ["a", ""]):
        with pytest.raises(InputError, match="empty"):
            model.retain(empty)
    for ids in ([1, VOCABULARY], [-1, 1]):
        with pytest.raises(InputError, match=f"from 0 to {VOCABULARY - 1}"):
            model.retain(ids)
    with pytest.raises(ConfigError, match="'all' or 'last'"):
        model.retain("a", records="some")
    with pytest.raises(InputError, match="2 texts but 1 memories"):
        model.retain(["a", "b"], memory=model.retain("c"))
    with pytest.raises(InputError, match="stored in int8"):
        model.retain("a", memory=model.retain("b", precision="int8"))
    with pytest.raises(ConfigError, match="float32, float16, int8"):
        model.retain("a", precision="int4")
    with pytest.raises(InputError, match="sample text"):
        model.calibrate([])


def test_tokenizer_that_loses_text_is_refused_with_the_place(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    from tokenizers import Tokenizer

    inner = Tokenizer.from_str(byte_tokenizer.backend_tokenizer.to_str())
    inner.normalizer = normalizers.Lowercase()
    lossy = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", pad_token="<pad>")
    model = tiny_r3mem(Backbone.wrap(tiny_model(), lossy, lora_rank=0))
    assert model.recall(model.retain("lower case")) == "lower case"
    with pytest.raises(InputError, match=r"character 4: 'Def' became 'def'"):
        model.retain("abc Def")


def test_parts_that_do_not_fit(tiny_backbone: Callable[..., Backbone]) -> None:
    backbone = tiny_backbone()
    stack = ReversibleStack([PositionBinding(WIDTH, 8, 0.5)])
    with pytest.raises(ConfigError, match="compressor's ratio is 4, the decoder's 8"):
        R3Mem(backbone, VirtualTokens(WIDTH, 4), stack)
    with pytest.raises(ConfigError, match=r"VirtualTokens is 16 wide.*set width to 32"):
        R3Mem(backbone, VirtualTokens(16, 8), stack)
    with pytest.raises(ConfigError, match=r"PositionBinding is 64 wide.*set width to 32"):
        R3Mem(backbone, VirtualTokens(WIDTH, 8), ReversibleStack([PositionBinding(64, 8)]))


# -- reading ---------------------------------------------------------------------------------------------------------


def test_generate_reads_the_memory(model: R3Mem) -> None:
    options = {"max_new_tokens": 8, "do_sample": False}
    memories = [model.retain(TEXT), model.retain("another text altogether, and longer " * 3)]
    prompts = ["Once upon", "a"]
    one_each = model.generate(prompts, memories, **options)
    assert one_each == [model.generate(p, m, **options) for p, m in zip(prompts, memories, strict=True)]
    shared = model.generate(prompts, memories[0], **options)
    assert shared[0] == one_each[0] and shared[1] == model.generate("a", memories[0], **options)
    assert isinstance(model.generate("a", **options), str)
    assert len({model.generate(prompts[0], m, "records", **options) for m in [None, *memories]}) == 3
    with pytest.raises(InputError, match="2 prompts but 1 memories"):
        model.generate(prompts, memories[:1])
    with pytest.raises(InputError, match="prompt is empty"):
        model.generate("", memories[0])


def test_reach(model: R3Mem) -> None:
    memory = model.retain(list(range(2 * SEGMENT + 5)))
    near, far = model.state(memory), model.state(memory, "records")
    assert near.lengths_B.tolist() == [5] and near.slots_BKD.shape == (1, 2, WIDTH)
    assert far.lengths_B.tolist() == [10 * RATIO] and far.slots_BKD.shape == (1, 10, WIDTH) and far.mask_BK.all()
    assert torch.equal(far.slots_BKD[:, 8:], near.slots_BKD)
    options = {"max_new_tokens": 12, "do_sample": False}
    assert model.generate("go", memory, "state", **options) != model.generate("go", memory, "records", **options)
    assert model.generate("go", memory, "records", **options) != model.generate("go", **options)
    with pytest.raises(ConfigError, match="'state' or 'records'"):
        model.generate("go", memory, reach="everything")


def test_the_stored_state_is_what_the_next_segment_reads(model: R3Mem) -> None:
    """Rounding to int8 must be seen by the next segment, or going on from a file would change it."""
    ids = list(TEXT.encode())[: 2 * SEGMENT]
    memory = model.retain(ids, precision="int8")
    text = Segments.pad([ids[SEGMENT:]])
    with torch.no_grad(), evaluating(model):
        first = model.state(model.retain(ids[:SEGMENT], precision="int8"))
        again = model.step(text, first, logits=False).state.slots_BKD
    step = float(memory.rest_scale_TK[1].max())
    assert (again - model.state(memory).slots_BKD).abs().max() < step * WIDTH**0.5


# -- other ratios ----------------------------------------------------------------------------------------------------


def test_set_ratio(model: R3Mem) -> None:
    before = model.retain(TEXT)
    model.set_ratio(8)
    memory = model.retain(TEXT)
    assert model.ratio == memory.ratio == 8 and memory.n_slots < before.n_slots
    assert model.recall(memory) == model.recall(before) == TEXT
    with pytest.raises(FingerprintError, match=r"written at ratio 4, the model is at 8 here.*set_ratio\(4\)"):
        model.retain(TEXT, before)
    model.set_ratio(RATIO)
    assert model.recall(before) == TEXT and same_memory(model.retain(TEXT), before)


def test_a_ratio_too_large_says_which_is_possible(model: R3Mem) -> None:
    before = model.retain(TEXT)
    with pytest.raises(ConfigError, match="ratio of at most 16"):
        model.set_ratio(32)
    assert model.ratio == RATIO and model.recall(before) == TEXT


def test_a_trained_coupling_is_tied_to_its_ratio(tiny_backbone: Callable[..., Backbone]) -> None:
    stack = ReversibleStack([PositionBinding(WIDTH, RATIO, 0.5), AttentionCoupling(WIDTH, RATIO)])
    model = R3Mem(tiny_backbone(), VirtualTokens(WIDTH, RATIO, 2, 1), stack)
    with pytest.raises(ConfigError, match="AttentionCoupling is tied to ratio 4"):
        model.set_ratio(8)
    assert model.ratio == model.decoder.ratio == RATIO
