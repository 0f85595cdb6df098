"""AutoregressiveDecoder: texts reconstructed by the language model come back exactly, or are refused.

Shape legend: B batch, N text tokens, K virtual tokens, D width, V vocabulary.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from r3mem import Backbone, ConfigError, FingerprintError, Memory, R3Mem, RecallError, Segments, TreeMemory
from r3mem.backbone.stepwise import Stepwise
from r3mem.compressors import Compressor, InContextAutoencoder, NoMemory, RecurrentMemory, VirtualTokens
from r3mem.compressors.controls.base import Control
from r3mem.hierarchy import BlankLines, FixedWindows, Flat, Level, MultiLevel
from r3mem.objectives import reconstruction_nll
from r3mem.recall import corrections
from r3mem.recall.autoregressive import ROWS
from r3mem.reversible import AutoregressiveDecoder
from tests.tiny_models import RATIO, SEGMENT, TEXT, VOCABULARY, WIDTH, awaken_adapters, same_memory

Make = Callable[..., R3Mem]


class SameSlots(Control):
    """Writes the same slots whatever the text: what a model reconstructs from them, it recalls by itself."""

    def slots(self, backbone: Backbone, text: Segments) -> Tensor:
        n_rows, n_slots = self.slot_mask(text).shape
        return torch.randn(n_slots, self.width, generator=torch.Generator().manual_seed(4)).expand(n_rows, -1, -1)


@pytest.fixture
def make(tiny_backbone: Callable[..., Backbone]) -> Make:
    """``make(compressor, margin=0.01, family="llama")``: a model that reconstructs texts."""

    def made(compressor: Compressor | None = None, margin: float | None = None, family: str = "llama") -> R3Mem:
        torch.manual_seed(0)
        compressor = compressor or InContextAutoencoder(WIDTH, RATIO)
        backbone = tiny_backbone(family)
        awaken_adapters(backbone)
        return R3Mem(backbone, compressor, AutoregressiveDecoder(compressor.ratio, margin), Flat(SEGMENT)).eval()

    return made


def reconstructed(model: R3Mem, n_tokens: int) -> list[int]:
    """What the model reconstructs from the slots of a text of that length, token by token in whole passes."""
    text = Segments.pad([[0] * n_tokens])
    with torch.no_grad():
        state, ids = model.step(text, logits=False).state, []
        for _ in range(n_tokens):
            if not ids:
                logits_V = model.reconstruct(text, state).opening_BV[0]
            else:
                logits_V = model.reconstruct(Segments.pad([ids]), state).logits_BNV[0, -1]
            ids.append(int(logits_V.argmax()))
    return ids


# -- what is kept ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_what_the_model_reconstructs_by_itself_needs_no_correction(make: Make, family: str) -> None:
    model = make(SameSlots(WIDTH, RATIO), margin=0, family=family)
    for n_tokens in (1, 5, SEGMENT):
        ids = reconstructed(model, n_tokens)
        memory = model.retain(ids, precision="float32")
        assert (memory.wrong, memory.correction_bits) == ([0], 0)
        assert model.recall_ids(memory) == ids


def test_one_other_token_is_one_correction_but_a_free_run_goes_astray(make: Make) -> None:
    model = make(SameSlots(WIDTH, RATIO), margin=0)
    own = reconstructed(model, SEGMENT)
    ids = [*own[:6], (own[6] + 1) % 256, *own[7:]]
    memory = model.retain(ids, precision="float32")
    with torch.no_grad():
        out = model.reconstruct(Segments.pad([ids]), model.state(memory))
    best = [int(out.opening_BV[0].argmax()), *out.logits_BNV[0, :-1].argmax(-1).tolist()]
    expected = [i for i in range(SEGMENT) if best[i] != ids[i]]
    assert corrections.unpack(memory.corrections[0], VOCABULARY)[0].tolist() == expected and 6 in expected
    # What it would reconstruct by itself is `own`; only one token of it is not the text's.
    assert memory.wrong == [1] and len(expected) > 1
    assert model.recall_ids(memory) == ids


def test_the_free_run_is_counted(make: Make) -> None:
    model = make()
    memory = model.retain(TEXT)
    ids = model.tokens(TEXT)
    rows = [ids[i : i + SEGMENT] for i in range(0, len(ids), SEGMENT)]
    found = []
    for t, row in enumerate(rows):
        state = model.state(memory.part(t))
        words, _ = model.codec.read(state.slots_BKD, state.lengths_B, len(row))
        found.append(sum(a != b for a, b in zip(words.ids_BN[0].tolist(), row, strict=True)))
    assert memory.wrong == found and sum(found) > 0


def test_nothing_is_written_into_the_memory(make: Make) -> None:
    model = make()
    text = Segments.pad([[1, 2, 3, 4, 5], [6]])
    with torch.no_grad():
        written_BKD = model.compressor(model.backbone, text, None, logits=False).slots_BKD
        step = model.step(text, logits=False)
    assert torch.equal(step.state.slots_BKD, written_BKD) and torch.equal(step.residual_BND, step.text_BND)
    memory = model.retain([1, 2, 3, 4, 5], precision="float32")
    assert memory.share_dims == 0 and torch.equal(memory.data_TKD[0], model.state(memory).slots_BKD[0])


@pytest.mark.parametrize("margin, kept", [(0.0, 0), (math.inf, SEGMENT)])
def test_the_margin_decides_what_is_kept_of_what_is_right(make: Make, margin: float, kept: int) -> None:
    model = make(SameSlots(WIDTH, RATIO), margin)
    ids = reconstructed(model, SEGMENT)
    memory = model.retain(ids, precision="float32")
    assert len(corrections.unpack(memory.corrections[0], VOCABULARY)[0]) == kept
    assert memory.wrong == [0] and model.recall_ids(memory) == ids


@pytest.mark.parametrize("noise, survives", [(0.04, True), (20.0, False)])
def test_logits_that_move_by_less_than_half_the_margin_change_nothing(
    make: Make, noise: float, survives: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(SameSlots(WIDTH, RATIO), margin=0.1)
    ids = reconstructed(model, SEGMENT)
    texts = [[*ids[:n], (ids[n] + 1) % 256, *ids[n + 1 :]] for n in range(SEGMENT)]
    memories = model.retain(texts, precision="float32")
    generator, after, opening = torch.Generator().manual_seed(0), Stepwise.after, Stepwise.opening

    def elsewhere(logits_BV: Tensor) -> Tensor:
        return logits_BV + noise * (2 * torch.rand(logits_BV.shape, generator=generator) - 1)

    monkeypatch.setattr(Stepwise, "after", lambda self, ids_B: elsewhere(after(self, ids_B)))
    monkeypatch.setattr(Stepwise, "opening", lambda self: elsewhere(opening(self)))
    if survives:
        assert [model.recall_ids(memory) for memory in memories] == texts
    else:
        with pytest.raises(RecallError, match="larger margin"):
            model.recall_ids(memories[-1])


# -- recall ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
@pytest.mark.parametrize("text", [TEXT, "x", "\x00\t \n"], ids=["text", "one", "blank"])
def test_recall_is_exact(make: Make, text: str, precision: str) -> None:
    model = make()
    memory = model.retain(text, precision=precision)
    assert model.recall(memory) == text and memory.data_TKD.dtype == getattr(torch, precision)


@pytest.mark.parametrize("layers", [None, (2, 1)], ids=["autoencoder", "virtual tokens"])
def test_batches_of_another_shape_than_at_retain(make: Make, layers: tuple[int, int] | None) -> None:
    compressor = None if layers is None else VirtualTokens(WIDTH, RATIO, *layers)
    model = make(compressor)
    generator = torch.Generator().manual_seed(0)
    # More segments than are reconstructed at a time, of unequal length; end marks among the tokens.
    lengths = [1, 5, SEGMENT, 3 * SEGMENT + 2, (ROWS + 2) * SEGMENT + 7]
    rows = [torch.randint(VOCABULARY, (n,), generator=generator).tolist() for n in lengths]
    together = model.retain(rows)
    assert 256 in rows[-1] and len(together[-1].lengths_T) > ROWS
    for batch in (1, 3, 64):
        assert [model.recall_ids(memory, batch) for memory in together] == rows
    for row in rows[:4]:
        assert model.recall_ids(model.retain(row)) == row
    assert model.recall_ids(Memory.join([together[0], together[3], together[1]])) == rows[0] + rows[3] + rows[1]


def test_a_memory_that_is_read_as_nothing(make: Make) -> None:
    model = make(NoMemory(WIDTH, RATIO))
    memory = model.retain(TEXT)
    first = corrections.unpack(memory.corrections[0], VOCABULARY)[0][0]
    assert first == 0, "nothing predicts the first token"
    assert model.recall(memory) == TEXT


def test_what_does_not_fit_is_refused_and_never_another_text(make: Make) -> None:
    model = make()
    memory = model.retain(TEXT)
    bare = copy.copy(memory)
    bare.corrections = [b""] * len(memory.corrections)
    with pytest.raises(RecallError, match=r"do not match the digest.*larger margin"):
        model.recall(bare)
    longer = copy.copy(memory)
    longer.lengths_T = memory.lengths_T + SEGMENT
    with pytest.raises(RecallError, match="cannot hold"):
        model.recall(longer)
    broken = copy.copy(memory)
    broken.data_TKD = torch.full_like(memory.data_TKD, math.nan)
    with pytest.raises(RecallError, match="NaN"):
        model.recall(broken)


# -- the seam --------------------------------------------------------------------------------------------------------


def test_a_memory_of_another_reconstructor_is_refused(make: Make, tiny_backbone: Callable[..., Backbone]) -> None:
    model, memory = make(), make().retain(TEXT)
    assert model.recall(memory) == TEXT, "the same model, built twice"
    assert make(margin=3.0).recall(memory) == TEXT, "the margin decides what is kept, not what is read"
    with torch.no_grad():
        model.compressor.spell_D[0] += 1
        with pytest.raises(FingerprintError, match="another stack"):
            model.recall(memory)
        model = make()
        next(p for name, p in model.backbone.adapter_parameters() if "lora_B" in name)[0] += 1
        with pytest.raises(FingerprintError, match="another stack"):
            model.recall(memory)
    with pytest.raises(FingerprintError, match="another stack"):
        make(InContextAutoencoder(WIDTH, 2)).recall(memory)
    lower = make()
    lower.backbone.precision = "bfloat16"
    assert lower.fingerprint["stack"] != make().fingerprint["stack"], "logits of another precision"


def test_other_ratios(make: Make) -> None:
    model = make()
    memory = model.retain(TEXT)
    with model.at_ratio(8):
        assert model.ratio == model.decoder.ratio == model.codec.ratio == 8
        other = model.retain(TEXT)
        assert model.recall(other) == model.recall(memory) == TEXT and other.n_slots < memory.n_slots
    assert model.recall(other) == model.recall(memory) == TEXT


def test_trees(make: Make, tmp_path: Path) -> None:
    model = make()
    levels = [Level("whole", FixedWindows(), 64, ratio=4), Level("paragraph", BlankLines(), SEGMENT, ratio=2)]
    model = R3Mem(model.backbone, model.compressor, model.decoder, MultiLevel(levels)).eval()
    text = "Once upon a time.\n\nThere was a model\nthat spelt.\n\nThe end."
    model.retain_tree(text).save(tmp_path / "tree.safetensors")
    tree = TreeMemory.load(tmp_path / "tree.safetensors")
    assert model.recall(tree) == text
    for i, node in enumerate(tree.nodes):
        assert model.recall(tree, i).encode() == text.encode()[node.start : node.end]


def test_saved_and_loaded(backbone_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = Backbone(str(backbone_folder), dtype="float32", lora_rank=3)
    awaken_adapters(backbone)
    decoder = AutoregressiveDecoder(RATIO, margin=0.5)
    model = R3Mem(backbone, InContextAutoencoder(WIDTH, RATIO), decoder, Flat(SEGMENT))
    model.save_pretrained(tmp_path / "model")
    model.retain(TEXT).save(tmp_path / "memory.safetensors")
    again, memory = R3Mem.from_pretrained(tmp_path / "model"), Memory.load(tmp_path / "memory.safetensors")
    assert isinstance(again.decoder, AutoregressiveDecoder) and again.decoder.margin == 0.5
    assert same_memory(again.retain(TEXT), memory) and again.recall(memory) == TEXT
    assert copy.deepcopy(again).recall(memory) == TEXT


def test_a_copy_reconstructs_with_its_own_weights(make: Make) -> None:
    model = make()
    memory, other = model.retain(TEXT), copy.deepcopy(model)
    awaken_adapters(model.backbone, seed=9)
    with torch.no_grad():
        model.compressor.spell_D.zero_()
    assert other.recall(memory) == TEXT


def test_settings_that_cannot_work(make: Make) -> None:
    for margin in (-0.1, math.nan):
        with pytest.raises(ConfigError, match="difference of logits"):
            AutoregressiveDecoder(4, margin)
    with pytest.raises(ConfigError, match="smallest ratio"):
        AutoregressiveDecoder(0)
    model = make()
    with pytest.raises(ConfigError, match="ratio is 4, the decoder's 8"):
        R3Mem(model.backbone, model.compressor, AutoregressiveDecoder(8))


# -- training --------------------------------------------------------------------------------------------------------


def test_the_first_token_is_trained_too(make: Make) -> None:
    model, text = make(), Segments.pad([[7, 8, 9], [3], []])
    state = model.step(text, logits=False).state
    out = model.reconstruct(text, state)
    total, count = reconstruction_nll(out, text)
    logs = [
        out.opening_BV[:2].log_softmax(-1),
        out.logits_BNV[:1, 0].log_softmax(-1),
        out.logits_BNV[:1, 1].log_softmax(-1),
    ]
    expected = logs[0][0, 7] + logs[0][1, 3] + logs[1][0, 8] + logs[2][0, 9]
    assert count == 4
    torch.testing.assert_close(total, -expected)


def test_a_trained_reconstructor_recalls_by_itself(make: Make) -> None:
    model = make(RecurrentMemory(WIDTH, RATIO))
    model.calibrate(segment_tokens=SEGMENT, segments=4)
    ids = [list(b"to be or"), list(b"not to b")]
    text = Segments.pad(ids)
    untrained = model.retain(ids)
    # At 1e-2 rounding decides whether it is learned: it was with AVX-512, and was not without.
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 3e-3)
    for _ in range(200):
        total, count = reconstruction_nll(model.reconstruct(text, model.step(text, logits=False).state), text)
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
    trained = model.retain(ids)
    assert [m.wrong for m in trained] == [[0], [0]]
    assert sum(m.correction_bits for m in trained) < sum(m.correction_bits for m in untrained) / 4
    assert [model.recall_ids(m) for m in trained] == ids
