"""The shared tests of compressors, for ``SelectedKeyValues``, and what it keeps.

Shape legend: B batch, N text tokens, K slots, L layers, H heads of keys and values, V vocabulary.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from r3mem import Backbone, ConfigError, FingerprintError, InputError, Memory, MemoryState, R3Mem, Segments
from r3mem.backbone.next_tokens import NextTokens
from r3mem.compressors import Compressor, LastTokens, RecurrentMemory, SelectedKeyValues
from r3mem.compressors.scorers import AttentionReceived, BenefitWeightedAttention, FutureAttention, Recency
from r3mem.hierarchy import Flat
from r3mem.reversible import PositionBinding, ReversibleStack
from tests.battery.compressor import KeyValueBattery, random_text
from tests.tiny_models import FAMILIES, HEAD_WIDTH, KEY_VALUE_HEADS, LAYERS, SEGMENT, TEXT, WIDTH, same_memory

KINDS = LAYERS * KEY_VALUE_HEADS
ROOT = Path(__file__).parents[2]


class TestSelectedKeyValues(KeyValueBattery):
    build = staticmethod(partial(SelectedKeyValues, WIDTH))
    memory_width = 2 * LAYERS * KEY_VALUE_HEADS * HEAD_WIDTH + KINDS


@pytest.fixture
def backbone(tiny_backbone: Callable[..., Backbone]) -> Backbone:
    return tiny_backbone(lora_rank=0).eval()


def made(compressor: SelectedKeyValues, backbone: Backbone, text: Segments) -> MemoryState:
    return MemoryState(compressor(backbone, text, None, logits=False).slots_BKD, text.lengths_B, compressor.ratio)


def kept(compressor: SelectedKeyValues, backbone: Backbone, text: Segments) -> Tensor:
    """Which positions of one text each layer and head keeps, ``LHK``."""
    observed = backbone(text, observe=True).attention
    index_BLHK, _ = compressor._chosen(observed, compressor.scorer(observed))
    return index_BLHK[0]


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("positions", ["compact", "original"])
def test_a_memory_of_everything_is_read_as_the_text(
    family: str, positions: str, tiny_backbone: Callable[..., Backbone]
) -> None:
    backbone, compressor = tiny_backbone(family).eval(), SelectedKeyValues(WIDTH, 1, positions=positions)
    text, more = random_text([13]), random_text([7], seed=1)
    whole = Segments.whole(torch.cat([text.ids_BN, more.ids_BN], 1))
    read_BNV = backbone(more, compressor.read(made(compressor, backbone, text))).logits_BNV
    torch.testing.assert_close(read_BNV, backbone(whole).logits_BNV[:, 13:], atol=2e-4, rtol=1e-4)


@torch.no_grad()
def test_dropped_positions_are_as_if_masked(backbone: Backbone) -> None:
    """One choice for all heads, read where the tokens stood, is a pass in which the rest of the text is not seen."""
    compressor = SelectedKeyValues(WIDTH, 3, AttentionReceived(), sharing="all", positions="original", sinks=2)
    text, more = random_text([14]), random_text([6], seed=1)
    places_K = kept(compressor, backbone, text)[0, 0]
    mask_SS = torch.full((20, 20), torch.finfo(torch.float32).min).triu(1)
    mask_SS[14:, :14][:, ~torch.isin(torch.arange(14), places_K)] = torch.finfo(torch.float32).min
    ids_BS = torch.cat([text.ids_BN, more.ids_BN], 1)
    expected_BSV = backbone.base(input_ids=ids_BS, attention_mask=mask_SS[None, None]).logits
    read_BNV = backbone(more, compressor.read(made(compressor, backbone, text))).logits_BNV
    torch.testing.assert_close(read_BNV, expected_BSV[:, 14:], atol=2e-4, rtol=1e-4)


@torch.no_grad()
def test_what_is_kept_stands_in_order_with_sinks_and_recent_positions(backbone: Backbone) -> None:
    text = random_text([40])
    for recent, last in ((0.0, []), (0.3, [37, 38, 39])):
        index_LHK = kept(SelectedKeyValues(WIDTH, 4, AttentionReceived(), sinks=3, recent=recent), backbone, text)
        assert index_LHK.shape == (LAYERS, KEY_VALUE_HEADS, 10)
        assert (index_LHK.diff(dim=-1) > 0).all() and (index_LHK[..., :3] == torch.arange(3)).all()
        assert not last or (index_LHK[..., -3:] == torch.tensor(last)).all()
    # No more sinks than half the slots, and one position at least where a text has one slot.
    assert kept(SelectedKeyValues(WIDTH, 4, Recency(), sinks=4), backbone, random_text([8]))[0, 0].tolist() == [0, 7]
    assert kept(SelectedKeyValues(WIDTH, 4), backbone, random_text([2]))[0, 0].tolist() == [0]


@torch.no_grad()
def test_heads_choose_alone_or_together(backbone: Backbone) -> None:
    text = random_text([64])
    index = {s: kept(SelectedKeyValues(WIDTH, 4, sharing=s), backbone, text) for s in ("head", "layer", "all")}
    assert (index["layer"] == index["layer"][:, :1]).all() and not (index["layer"] == index["layer"][:1]).all()
    assert (index["all"] == index["all"][:1, :1]).all()
    assert not (index["head"] == index["head"][:, :1]).all()


@torch.no_grad()
def test_a_future_is_looked_with_and_not_kept(backbone: Backbone) -> None:
    index_LHK = kept(SelectedKeyValues(WIDTH, 2, FutureAttention(8), sinks=1), backbone, random_text([24]))
    # Twelve slots, sixteen positions in front of the future.
    assert (index_LHK < 16).all() and index_LHK.shape[-1] == 12


@torch.no_grad()
def test_a_state_keeps_everything_until_it_is_full(backbone: Backbone) -> None:
    compressor, state = SelectedKeyValues(WIDTH, 4, sinks=2, recent=0.0, max_slots=10, decay=1.0), None
    sizes, first = [], None
    for seed in range(4):
        text = random_text([16], seed)
        written = compressor(backbone, text, state, logits=False)
        state = compressor.next_state(backbone, state, MemoryState(written.slots_BKD, text.lengths_B, 4))
        first = written.slots_BKD if first is None else first
        sizes.append(int(state.mask_BK.sum()))
        # The sinks of the first segment are in every state, and in every record.
        width = backbone.key_values.width
        for slots_BKW in (state.slots_BKD, written.slots_BKD):
            torch.testing.assert_close(slots_BKW[:, :2, :width], first[:, :2, :width])
    assert sizes == [4, 6, 8, 10]
    text = random_text([16], 9)
    written = compressor(backbone, text, state, logits=False)
    full = compressor.next_state(backbone, state, MemoryState(written.slots_BKD, text.lengths_B, 4))
    assert int(full.mask_BK.sum()) == 10 and full.slots_BKD.shape[1] == 10
    # Each head holds the ten of twelve that are worth most to it; which, differs.
    layout = backbone.key_values
    worth_BKX = torch.cat([state.slots_BKD, written.slots_BKD[:, 2:]], 1)[..., layout.width :]
    expected_BKX = worth_BKX.sort(1, descending=True).values[:, :10].sort(1).values
    torch.testing.assert_close(full.slots_BKD[..., layout.width :].sort(1).values, expected_BKX)


@torch.no_grad()
def test_a_state_follows_from_the_records_of_a_memory(backbone: Backbone, tmp_path: Path) -> None:
    model = R3Mem(backbone, SelectedKeyValues(WIDTH, 4, max_slots=12), hierarchy=Flat(SEGMENT)).eval()
    ids = torch.randint(0, 200, (5 * SEGMENT + 3,), generator=torch.Generator().manual_seed(0)).tolist()
    whole = model.retain(ids)
    model.retain(ids[: 2 * SEGMENT]).save(tmp_path / "first.safetensors")
    went_on = model.retain(ids[2 * SEGMENT :], memory=Memory.load(tmp_path / "first.safetensors"))
    assert same_memory(whole, went_on) and model.recall_ids(whole) == ids
    state = model.state(whole)
    assert state.slots_BKD.shape[1] == 12
    torch.testing.assert_close(state.slots_BKD, model.state(went_on).slots_BKD)


@torch.no_grad()
@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
@pytest.mark.parametrize("ratio", [2, 4, 16])
def test_without_arguments_but_the_backbone(backbone: Backbone, ratio: int, precision: str) -> None:
    model = R3Mem(backbone, hierarchy=Flat(SEGMENT)).eval()
    model.set_ratio(ratio)
    memory = model.retain(TEXT, precision=precision)
    assert model.recall(memory) == TEXT
    assert model.generate("So", memory=memory, max_new_tokens=3) is not None


@torch.no_grad()
def test_slots_are_chosen_when_the_question_is_known(backbone: Backbone) -> None:
    compressor, text = SelectedKeyValues(WIDTH, 1, sinks=2), random_text([30, 21])
    memory = made(compressor, backbone, text)
    question = random_text([5, 5], seed=4)
    fewer = compressor.choose(backbone, memory, question, 8)
    assert fewer.slots_BKD.shape[:2] == (2, 8) and fewer.lengths_B.tolist() == [8, 8]
    # What the question attends to is kept, by a plain computation: rows of the last queries over the whole text.
    for b, n in enumerate((30, 21)):
        ids_1S = torch.cat([text.ids_BN[b : b + 1, :n], question.ids_BN[b : b + 1]], 1)
        backbone.base.set_attn_implementation("eager")
        attentions = backbone.base(ids_1S, output_attentions=True).attentions
        backbone.base.set_attn_implementation("sdpa")
        for layer, attention_AQS in enumerate(a[0] for a in attentions):
            received_HN = attention_AQS[:, n:, :n].mean(1).unflatten(0, (KEY_VALUE_HEADS, -1)).mean(1)
            received_HN[:, :2] = 1
            expected_HK = received_HN.topk(8).indices.sort().values
            head = (LAYERS - 1 - layer) * 2 * KEY_VALUE_HEADS * HEAD_WIDTH
            for h in range(KEY_VALUE_HEADS):
                part = slice(head + h * HEAD_WIDTH, head + (h + 1) * HEAD_WIDTH)
                torch.testing.assert_close(
                    fewer.slots_BKD[b, :, part], memory.slots_BKD[b, expected_HK[h], part], msg=f"{b} {layer} {h}"
                )
    whole = compressor.choose(backbone, memory, question, 100)
    torch.testing.assert_close(whole.slots_BKD[0], memory.slots_BKD[0])
    with pytest.raises(ConfigError, match="at least 1"):
        compressor.choose(backbone, memory, question, 0)


@torch.no_grad()
def test_generation_reads_the_slots_that_a_prompt_attends_to(backbone: Backbone) -> None:
    model = R3Mem(backbone, SelectedKeyValues(WIDTH, 2), hierarchy=Flat(SEGMENT)).eval()
    memory = model.retain(TEXT)
    assert model.generate("So", memory, slots=4, max_new_tokens=2) is not None
    with pytest.raises(ConfigError, match="LastTokens cannot choose"):
        other = R3Mem(backbone, LastTokens(WIDTH, 4), hierarchy=Flat(SEGMENT)).eval()
        other.generate("So", other.retain(TEXT), slots=4, max_new_tokens=2)


@torch.no_grad()
def test_observing_changes_no_output(tiny_backbone: Callable[..., Backbone]) -> None:
    text = random_text([21, 30])
    before_BNV = tiny_backbone()(text).logits_BNV
    backbone = tiny_backbone()
    assert torch.equal(backbone(text, observe=True).logits_BNV, before_BNV)
    assert torch.equal(backbone(text).logits_BNV, before_BNV)


def test_threads_observe_their_own_passes(backbone: Backbone) -> None:
    compressor = SelectedKeyValues(WIDTH, 4)
    texts = [random_text([10 + 3 * i], seed=i) for i in range(8)]
    with torch.no_grad():
        alone = [compressor(backbone, text, None, logits=False).slots_BKD for text in texts]

    def write(text: Segments) -> Tensor:
        with torch.no_grad():
            return compressor(backbone, text, None, logits=False).slots_BKD

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(write, texts * 5))
    assert all(torch.equal(slots, alone[i % 8]) for i, slots in enumerate(together))


@torch.no_grad()
def test_the_benefit_of_a_scorer_costs_no_logits_of_the_segment(backbone: Backbone) -> None:
    compressor = SelectedKeyValues(WIDTH, 4, BenefitWeightedAttention(4, 8))
    assert compressor(backbone, random_text([40]), None, logits=False).logits_BNV is None


def test_what_is_refused(tiny_backbone: Callable[..., Backbone], backbone_folder: Path) -> None:
    backbone, text = tiny_backbone(), random_text([12])
    compressor = SelectedKeyValues(WIDTH, 4, positions="original")
    state = made(compressor, backbone, text)
    with pytest.raises(ConfigError, match="one segment only"):
        compressor(backbone, text, state)
    compact = SelectedKeyValues(WIDTH, 4)
    with pytest.raises(InputError, match=r"need 1103 positions, .* has 1024.*stream"):
        compact(backbone, random_text([1100]), made(compact, backbone, text))
    with pytest.raises(ConfigError, match="take attn_implementation sdpa"):
        compact(Backbone(str(backbone_folder), "float32", attn_implementation="eager"), text, None)
    with pytest.raises(ConfigError, match="gradient_checkpointing off"):
        compact(Backbone(str(backbone_folder), "float32", gradient_checkpointing=True), text, None)
    with torch.no_grad():
        compact(Backbone(str(backbone_folder), "float32", gradient_checkpointing=True), text, None)
    with pytest.raises(InputError, match="a memory of 3 positions, a prompt of 1000 tokens and 30 new ones need 1032"):
        backbone.generate([[5] * 1000], compact.read(made(compact, backbone, text)), max_new_tokens=30)
    for wrong in (
        {"sharing": "none"}, {"positions": "anywhere"}, {"sinks": -1}, {"recent": 1.0}, {"decay": 0.0},
        {"max_slots": 0},
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            SelectedKeyValues(WIDTH, 4, **wrong)


@torch.no_grad()
def test_whose_memories_are_read(backbone: Backbone) -> None:
    def model(compressor: Compressor) -> R3Mem:
        return R3Mem(backbone, compressor, ReversibleStack([PositionBinding(WIDTH, 4)]), Flat(SEGMENT)).eval()

    memory = model(SelectedKeyValues(WIDTH, 4)).retain(TEXT)
    for setting, other in (
        ("scorer", SelectedKeyValues(WIDTH, 4, AttentionReceived())),
        ("sharing", SelectedKeyValues(WIDTH, 4, sharing="layer")),
    ):
        with pytest.warns(UserWarning, match=f"another {setting} of SelectedKeyValues"):
            model(other).state(memory)
        with pytest.raises(FingerprintError, match=f"other {setting}"):
            model(other).retain(TEXT, memory)
        assert model(other).recall(memory) == TEXT
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(SelectedKeyValues(WIDTH, 4, max_slots=8, decay=0.9)).state(memory)
    with pytest.raises(FingerprintError, match="the same with other positions"):
        model(SelectedKeyValues(WIDTH, 4, positions="original")).state(memory)
    lasts, recurrent = model(LastTokens(WIDTH, 4)), model(RecurrentMemory(WIDTH, 4))
    assert recurrent.recall(lasts.retain(TEXT)) == TEXT
    with pytest.raises(FingerprintError, match="written by LastTokens, and this RecurrentMemory cannot read it"):
        recurrent.generate("So", lasts.retain(TEXT), max_new_tokens=2)
    with pytest.raises(InputError, match="precision='float16'"):
        model(SelectedKeyValues(WIDTH, 4)).retain(TEXT, memory, precision="int8")


@torch.no_grad()
def test_a_short_message_leaves_a_trace(backbone: Backbone) -> None:
    model = R3Mem(backbone, SelectedKeyValues(WIDTH, 4), hierarchy=Flat(SEGMENT)).eval()
    memory = model.retain(TEXT)
    longer = model.retain("abc", memory)
    assert int(model.state(longer).mask_BK.sum()) == int(model.state(memory).mask_BK.sum()) + 1
    # A first text of one slot, then more: nothing of the second is taken for sinks.
    short = model.retain(TEXT[:20], model.retain("a"))
    assert int(model.state(short).mask_BK.sum()) == short.n_slots - 1


@torch.no_grad()
def test_few_slots_hold_the_first_position_and_the_best(backbone: Backbone) -> None:
    compressor, text = SelectedKeyValues(WIDTH, 1, sinks=4), random_text([20])
    memory = made(compressor, backbone, text)
    width = backbone.key_values.width
    for slots, sinks in ((1, 1), (2, 1), (5, 3), (8, 4)):
        fewer = compressor.choose(backbone, memory, random_text([3], 2), slots).slots_BKD[0]
        small = SelectedKeyValues(WIDTH, 1, sinks=4, max_slots=slots).next_state(backbone, None, memory).slots_BKD[0]
        for kept_KW in (fewer, small):
            assert kept_KW.shape[0] == slots
            torch.testing.assert_close(kept_KW[:sinks, :width], memory.slots_BKD[0, :sinks, :width])
            assert slots == sinks or not torch.allclose(kept_KW[sinks, :width], memory.slots_BKD[0, sinks, :width])


def test_a_model_that_has_observed_is_loaded_in_another_process(backbone_folder: Path, tmp_path: Path) -> None:
    model = R3Mem(Backbone(str(backbone_folder), "float32", lora_rank=2), hierarchy=Flat(SEGMENT)).eval()
    memory = model.retain(TEXT)
    (tmp_path / "model.pickle").write_bytes(pickle.dumps(model))
    memory.save(tmp_path / "memory.safetensors")
    script = (
        "import pickle, sys; from r3mem import Memory; model = pickle.load(open(sys.argv[1], 'rb')); "
        "sys.stdout.buffer.write(model.recall(Memory.load(sys.argv[2])).encode()); "
        "model.generate('So', Memory.load(sys.argv[2]), max_new_tokens=2)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "model.pickle"), str(tmp_path / "memory.safetensors")]
    assert subprocess.run(command, capture_output=True, check=True, cwd=ROOT).stdout.decode() == TEXT


def test_threads_read_and_score_with_one_model(backbone: Backbone) -> None:
    model = R3Mem(backbone, SelectedKeyValues(WIDTH, 4), hierarchy=Flat(SEGMENT)).eval()
    texts = [random_text([10 + 3 * i], seed=i) for i in range(6)]

    def read(text: Segments) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            scores = model.scores(text)
            assert isinstance(scores, NextTokens)
            return scores.logits, backbone(text).logits_BNV

    alone = [read(text) for text in texts]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(read, texts * 8))
    for i, found in enumerate(together):
        assert all(torch.equal(a, b) for a, b in zip(found, alone[i % 6], strict=True))
