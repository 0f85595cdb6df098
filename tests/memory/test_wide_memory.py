"""The whole path with virtual tokens that are wider than the backbone: keys and values of all layers.

Shape legend: B batch, N text tokens, T segments of one text, K virtual tokens, D width of the backbone, W of a memory.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from r3mem import Backbone, FingerprintError, InputError, Memory, R3Mem, Segments
from r3mem.compressors import ActivationBeacon, Compressor, FiveHundredXCompressor, GistTokens, VirtualTokens
from r3mem.hierarchy import BlankLines, FixedWindows, Flat, Hierarchy, Level, Refined
from r3mem.memory import slots_needed
from r3mem.memory.quantise import Precision
from r3mem.memory.tree_memory import TreeMemory
from r3mem.reversible import IdentityCoupling, PositionBinding, ReversibleStack
from tests.battery.compressor import KeyValueBattery, random_text
from tests.tiny_models import HEAD_WIDTH, RATIO, SEGMENT, TEXT, WIDTH, awaken_adapters, same_memory

KINDS = [ActivationBeacon, FiveHundredXCompressor, GistTokens]
WIDE = KeyValueBattery.memory_width
Make = Callable[..., R3Mem]


@pytest.fixture
def make(tiny_backbone: Callable[..., Backbone]) -> Make:
    """A calibrated model of a compressor."""

    def made(kind: Callable[..., Compressor], hierarchy: Hierarchy | None = None) -> R3Mem:
        backbone = tiny_backbone()
        awaken_adapters(backbone)
        stack = ReversibleStack([PositionBinding(WIDTH, RATIO, 0.5)])
        torch.manual_seed(0)
        model = R3Mem(backbone, kind(WIDTH, RATIO), stack, hierarchy or Flat(SEGMENT)).eval()
        model.calibrate(segment_tokens=SEGMENT, segments=4)
        return model

    return made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_recall_is_exact(make: Make, kind: type[Compressor], precision: Precision) -> None:
    model, text = make(kind), TEXT * 3
    memory = model.retain(text, precision=precision)
    assert model.recall(memory) == text
    assert memory.data_TKD.shape[-1] == WIDE and memory.data_TKD.dtype == getattr(torch, precision)
    element, n_slots = memory.data_TKD.element_size(), sum(slots_needed(n, RATIO) for n in memory.lengths_T.tolist())
    kept = memory.correction_bits // 8 + 8 * len(memory.digests)
    # In int8 every layer, head and kind has a scale, in float32; the words have one too.
    scales = 1 + (WIDE // HEAD_WIDTH if precision == "int8" else 1)
    assert memory.nbytes == n_slots * (WIDE * element + 4 * scales) + kept
    # The slots alone hold the words: nothing is left to correct but rounding.
    assert sum(memory.wrong) == 0


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_beyond_the_stack_s_width_rides_along(make: Make, kind: type[Compressor]) -> None:
    model, text = make(kind), random_text([11, 6])
    written = model.compressor(model.backbone, text, None)
    step = model.step(text)
    assert torch.equal(step.state.slots_BKD[..., WIDTH:], written.slots_BKD[..., WIDTH:])
    assert not torch.allclose(step.state.slots_BKD[..., :WIDTH], written.slots_BKD[..., :WIDTH], atol=0.1)
    assert step.slots_BKD.shape[-1] == WIDTH
    torch.testing.assert_close(step.slots_BKD, model.decoder.project_off_share(written.slots_BKD[..., :WIDTH]))


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_read_as_the_memory_was(make: Make, kind: type[Compressor], tmp_path: Path) -> None:
    model = make(kind)
    memory = model.retain(TEXT * 2)
    memory.save(tmp_path / "memory.safetensors")
    loaded = Memory.load(tmp_path / "memory.safetensors")
    assert same_memory(loaded, memory) and model.recall(loaded) == TEXT * 2
    assert same_memory(model.retain(TEXT, loaded), model.retain(TEXT, memory))
    model.save_pretrained(tmp_path / "model")
    parts = torch.nn.Module.state_dict(model.compressor)
    assert all(tensor.numel() <= 128 * WIDTH for tensor in parts.values())


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reach", ["state", "records"])
def test_generation_reads_as_a_pass_reads(make: Make, kind: type[Compressor], reach: str) -> None:
    """Greedy decoding token by token, without a cache of the text."""
    model, prompts = make(kind), ["Sir ", "then he said"]
    memories = [model.retain(TEXT * 2), model.retain("A short one.")]
    together = model.generate(prompts, memories, reach, max_new_tokens=6, do_sample=False)
    tokenizer = model.backbone.tokenizer
    for prompt, memory, new in zip(prompts, memories, together, strict=True):
        ids, state = model.tokens(prompt), model.state(memory, reach)
        given = len(ids)
        for _ in range(6):
            token = int(model.likelihood(Segments.pad([ids]), state)[0, -1].argmax())
            if token == tokenizer.eos_token_id:
                break
            ids.append(token)
        assert new == tokenizer.decode(ids[given:], skip_special_tokens=True)
        assert model.generate(prompt, memory, reach, max_new_tokens=6, do_sample=False) == new
    assert any(together)


def test_a_memory_of_another_width_is_refused(make: Make) -> None:
    wide = make(GistTokens)
    narrow = make(lambda width, ratio: VirtualTokens(width, ratio, write_layer=2, read_layer=1))
    long, short = wide.retain(TEXT), narrow.retain(TEXT)
    assert all(long.fingerprint[part] == short.fingerprint[part] for part in ("backbone", "stack", "prior"))
    for model, memory in ((narrow, long), (wide, short)):
        for use in (model.recall, lambda m, model=model: model.generate("x", m, max_new_tokens=1), model.state):
            with pytest.raises(FingerprintError, match=rf"{memory.data_TKD.shape[-1]} wide, those of"):
                use(memory)
    with pytest.raises(InputError, match="only like can be joined"):
        Memory.join([long, short])
    short_state = wide.compressor.read(narrow.state(short))
    with pytest.raises(InputError, match=r"is 96 numbers wide for this backbone \(3 layers, 2 heads of 8\)"):
        wide.backbone(random_text([3]), short_state)


@torch.no_grad()
def test_levels_of_a_tree_are_told_apart_in_all_of_a_memory(make: Make, tmp_path: Path) -> None:
    levels = [
        Level("document", BlankLines(), tokens=64, ratio=8),
        Level("paragraph", BlankLines(), tokens=32, ratio=4),
        Level("entity", FixedWindows(), tokens=12, ratio=4),
    ]
    model, text = make(GistTokens, Refined(levels)), "\n\n".join(f"Paragraph {i}: {TEXT}" for i in range(2))
    assert model.level_embedding is not None and model.level_embedding.weight.shape == (3, WIDE)
    model.level_embedding.weight.normal_(std=0.1)
    memory = model.retain_tree(text)
    assert model.recall(memory) == text
    memory.save(tmp_path / "tree.safetensors")
    assert model.recall(TreeMemory.load(tmp_path / "tree.safetensors")) == text
    step = [model.step(random_text([8]), level=level).state.slots_BKD[..., WIDTH:] for level in (1, 2)]
    moved_X = model.level_embedding.weight[2, WIDTH:] - model.level_embedding.weight[1, WIDTH:]
    torch.testing.assert_close(step[1] - step[0], moved_X.expand_as(step[0]), atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_without_an_exact_share_slots_stay_as_they_were_written(
    kind: type[Compressor], tiny_backbone: Callable[..., Backbone]
) -> None:
    model = R3Mem(tiny_backbone(), kind(WIDTH, RATIO), ReversibleStack([IdentityCoupling(RATIO)]), Flat(SEGMENT)).eval()
    text = random_text([11, 6])
    step = model.step(text)
    assert torch.equal(step.state.slots_BKD, model.compressor(model.backbone, text, None).slots_BKD)
    read, _ = model.codec.read(step.state.slots_BKD, text.lengths_B, 11)
    assert read.ids_BN.shape == (2, 11)
    assert model.recall(model.retain("corrections hold every word")) == "corrections hold every word"
