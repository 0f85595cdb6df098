"""What every compressor has to keep. A new compressor gets these tests by one subclass.

```python
class TestMyCompressor(CompressorBattery):
    build = staticmethod(partial(MyCompressor, width=WIDTH))
```

``HiddenStateBattery`` adds what compressors share that read and write hidden states, ``KeyValueBattery`` what those
share that keep keys and values.

Shape legend: B batch, N text tokens, K virtual tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from r3mem import Backbone, InputError, MemoryState, Segments
from r3mem.compressors import Compressor
from r3mem.memory import slots_needed
from r3mem.plain_data.components import build, describe
from tests.tiny_models import FAMILIES, HEAD_WIDTH, KEY_VALUE_HEADS, LAYERS, WIDTH, awaken_adapters

RATIO = 4
# Rows that end inside a slot, at its border, in the first slot, and an empty one.
LENGTHS = [11, 8, 2, 0]
BEFORE = [8, 0, 3, 5]


def random_text(lengths: list[int], seed: int = 0) -> Segments:
    generator = torch.Generator().manual_seed(seed)
    return Segments.pad([torch.randint(0, 256, (n,), generator=generator).tolist() for n in lengths])


class CompressorBattery:
    """Shared tests; a subclass names the compressor.

    Attributes:
        build: Makes the compressor; called with ``ratio``.
        reads: Whether a memory holds anything and is read; only the control of no memory does not.
        memory_width: Numbers of one virtual token for the tiny Llama.
        carries: Segments over which a state of the tiny model carries something on.
    """

    build: ClassVar[Callable[..., Compressor]]
    reads: ClassVar[bool] = True
    memory_width: ClassVar[int] = WIDTH
    carries: ClassVar[int] = 3

    @pytest.fixture
    def backbone(self, tiny_backbone: Callable[..., Backbone]) -> Backbone:
        made = tiny_backbone().eval()
        awaken_adapters(made)
        return made

    @pytest.fixture
    def compressor(self) -> Compressor:
        return self.new()

    def new(self, ratio: int = RATIO) -> Compressor:
        made = self.build(ratio=ratio)
        # Learned vectors that start at zero would make most tests pass idly.
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        return made

    def memory(self, lengths: list[int], ratio: int = RATIO, seed: int = 8) -> MemoryState:
        n_slots = max(1, slots_needed(max(lengths), ratio))
        slots_BKD = torch.randn(len(lengths), n_slots, self.memory_width, generator=torch.Generator().manual_seed(seed))
        return MemoryState(slots_BKD, torch.tensor(lengths), ratio)

    def is_idle(self, name: str) -> bool:
        """Whether something trainable is known to reach nothing."""
        return False

    @torch.no_grad()
    def test_shape_and_precision(self, compressor: Compressor, backbone: Backbone) -> None:
        for length in (1, RATIO - 1, RATIO, RATIO + 1, 3 * RATIO):
            written = compressor(backbone, random_text([length, 1]), None)
            assert compressor.memory_width(backbone) == self.memory_width
            assert written.slots_BKD.shape == (2, slots_needed(length, RATIO), self.memory_width)
            assert written.slots_BKD.dtype == torch.float32 and written.logits_BNV.shape[:2] == (2, length)
            assert bool((written.slots_BKD[0].abs().sum(-1) > 0).all()) is self.reads

    @torch.no_grad()
    def test_likelihood_is_left_out_where_not_asked_for(self, compressor: Compressor, backbone: Backbone) -> None:
        text, memory = random_text(LENGTHS), self.memory(BEFORE)
        quick, whole = compressor(backbone, text, memory, logits=False), compressor(backbone, text, memory)
        assert quick.logits_BNV is None and torch.equal(quick.slots_BKD, whole.slots_BKD)

    @torch.no_grad()
    def test_batch_equals_singles(self, compressor: Compressor, backbone: Backbone) -> None:
        text, memory = random_text(LENGTHS), self.memory(BEFORE)
        batch = compressor(backbone, text, memory)
        for b, (n, before) in enumerate(zip(LENGTHS, BEFORE, strict=True)):
            if n == 0:
                continue
            k, kept = slots_needed(n, RATIO), slots_needed(before, RATIO)
            one_text = Segments(text.ids_BN[b : b + 1, :n], text.lengths_B[b : b + 1])
            held = MemoryState(memory.slots_BKD[b : b + 1, :kept], memory.lengths_B[b : b + 1], RATIO)
            one = compressor(backbone, one_text, held if before else None)
            torch.testing.assert_close(batch.slots_BKD[b, :k], one.slots_BKD[0], atol=2e-4, rtol=1e-4)
            torch.testing.assert_close(batch.logits_BNV[b, :n], one.logits_BNV[0], atol=2e-4, rtol=1e-4)

    @torch.no_grad()
    def test_padding_contributes_nothing(self, compressor: Compressor, backbone: Backbone) -> None:
        text, memory = random_text(LENGTHS), self.memory(BEFORE)
        plain = compressor(backbone, text, memory)
        ids_BN = torch.where(text.mask_BN, text.ids_BN, 10**6)
        padded = Segments(torch.nn.functional.pad(ids_BN, (0, 2 * RATIO), value=-5), text.lengths_B)
        memory.slots_BKD[~memory.mask_BK] = 1e3
        memory.slots_BKD = torch.nn.functional.pad(memory.slots_BKD, (0, 0, 0, 2), value=1e3)
        wider = compressor(backbone, padded, memory)
        n_slots, n_tokens = plain.slots_BKD.shape[1], text.ids_BN.shape[1]
        torch.testing.assert_close(wider.slots_BKD[:, :n_slots], plain.slots_BKD, atol=2e-4, rtol=1e-4)
        inside = text.mask_BN
        torch.testing.assert_close(
            wider.logits_BNV[:, :n_tokens][inside], plain.logits_BNV[inside], atol=2e-4, rtol=1e-4
        )
        beyond_BK = torch.arange(wider.slots_BKD.shape[1]) * RATIO >= text.lengths_B[:, None]
        assert (wider.slots_BKD[beyond_BK] == 0).all()

    @pytest.mark.parametrize("longest", [16, 64])
    def test_packed_rows_are_padded_rows(self, compressor: Compressor, backbone: Backbone, longest: int) -> None:
        text, memory = random_text(LENGTHS), self.memory(BEFORE)
        memory.slots_BKD.requires_grad_()
        named = {
            name: p for part in (compressor, backbone) for name, p in part.named_parameters() if p.requires_grad
        } | {"memory": memory.slots_BKD}

        def made() -> dict[str, Tensor | None]:
            written = compressor(backbone, text, memory)
            logits = written.logits_BNV[text.mask_BN]
            # Weights at random: the sum of squares of a normalised state has no gradient.
            weights_BKD = torch.randn(written.slots_BKD.shape, generator=torch.Generator().manual_seed(4))
            loss = logits.square().mean() + (written.slots_BKD * weights_BKD).sum() / len(LENGTHS)
            found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
            return {"slots": written.slots_BKD, "logits": logits} | dict(zip(named, found, strict=True))

        padded = made()
        backbone.pack = longest
        packed = made()
        for name, expected in padded.items():
            assert (expected is None) == (packed[name] is None), name
            if expected is not None:
                scale = expected.abs().max().clamp(min=1e-6)
                torch.testing.assert_close(packed[name] / scale, expected / scale, atol=2e-4, rtol=0, msg=name)

    @torch.no_grad()
    def test_all_rows_empty(self, compressor: Compressor, backbone: Backbone) -> None:
        written = compressor(backbone, Segments.pad([[], []]), self.memory([0, 5]))
        assert (written.slots_BKD == 0).all() and torch.isfinite(written.logits_BNV).all()

    @torch.no_grad()
    def test_a_row_that_holds_nothing_is_read_as_nothing(self, compressor: Compressor, backbone: Backbone) -> None:
        text = random_text([9, 9])
        with compressor.reading(backbone):
            without_BNV = backbone(text).logits_BNV
            read_BNV = backbone(text, compressor.read(self.memory([0, 7]))).logits_BNV
        torch.testing.assert_close(read_BNV[0], without_BNV[0], atol=2e-5, rtol=1e-4)
        assert torch.allclose(read_BNV[1], without_BNV[1], atol=1e-2) is not self.reads

    def test_gradients_reach_everything_trainable_through_two_segments(
        self, compressor: Compressor, backbone: Backbone
    ) -> None:
        backbone.zero_grad()
        first = compressor(backbone, random_text([9, 6]), None, logits=False)
        memory = MemoryState(first.slots_BKD, torch.tensor([9, 6]), RATIO)
        text = random_text([7, 5], seed=1)
        loss = compressor(backbone, text, memory).logits_BNV.square().sum()
        with compressor.reading(backbone):
            loss = loss + backbone(text, compressor.read_to_reconstruct(memory)).logits_BNV.square().sum()
        loss.backward()
        trainable = [*compressor.named_parameters(), *backbone.adapter_parameters()]
        idle = [name for name, p in trainable if p.grad is None or not p.grad.abs().sum() > 0]
        assert [name for name in idle if not self.is_idle(name)] == []
        assert len(idle) == sum(self.is_idle(name) for name, _ in trainable)
        assert all(torch.isfinite(p.grad).all() for _, p in trainable if p.grad is not None)

    @torch.no_grad()
    def test_the_state_keeps_its_size_and_carries_the_past_on(self, compressor: Compressor, backbone: Backbone) -> None:
        ends: list[Tensor] = []
        for seed in (0, 1):
            state = None
            texts = [random_text([12], seed=seed), random_text([12], 5), random_text([12], 6)]
            for t, text in enumerate(texts[: self.carries]):
                slots_BKD = compressor(backbone, text, state, logits=False).slots_BKD
                assert slots_BKD.shape == (1, 3, self.memory_width), t
                state = MemoryState(slots_BKD, text.lengths_B, RATIO)
            ends.append(state.slots_BKD)
        assert torch.allclose(*ends, atol=1e-4) is not compressor.recurrent

    @torch.no_grad()
    @pytest.mark.parametrize("ratio", [1, 3, 16])
    def test_any_ratio_after_calibration(self, compressor: Compressor, backbone: Backbone, ratio: int) -> None:
        explained = compressor.calibrate(backbone, random_text([64] * 8), lambda slots_BKD: slots_BKD)
        assert 0 < explained <= 1
        compressor.ratio = ratio
        slots_BKD = compressor(backbone, random_text([10, 4]), None).slots_BKD
        assert slots_BKD.shape[1] == slots_needed(10, ratio)
        after = compressor(backbone, random_text([6, 6], seed=1), MemoryState(slots_BKD, torch.tensor([10, 4]), ratio))
        assert torch.isfinite(after.slots_BKD).all() and torch.isfinite(after.logits_BNV).all()

    @torch.no_grad()
    def test_saved_and_built_again(self, compressor: Compressor, backbone: Backbone) -> None:
        compressor.calibrate(backbone, random_text([64] * 8), lambda slots_BKD: slots_BKD)
        again = build(describe(compressor), Compressor)
        again.load_state_dict(compressor.state_dict())
        text, memory = random_text(LENGTHS), self.memory(BEFORE)
        assert torch.equal(again(backbone, text, memory).slots_BKD, compressor(backbone, text, memory).slots_BKD)

    def test_ratio_below_one(self) -> None:
        with pytest.raises(ValueError, match="smallest ratio is 1"):
            self.build(ratio=0)


class KeyValueBattery(CompressorBattery):
    """For subclasses of ``KeyValueSlots``."""

    memory_width = 2 * LAYERS * KEY_VALUE_HEADS * HEAD_WIDTH
    # What is read in one layer is kept in the next.
    carries = LAYERS - 1

    @torch.no_grad()
    @pytest.mark.parametrize("family", FAMILIES)
    def test_any_family_writes_and_reads(self, family: str, tiny_backbone: Callable[..., Backbone]) -> None:
        backbone, compressor = tiny_backbone(family).eval(), self.new()
        text = random_text([9, 6])
        written = compressor(backbone, text, None)
        assert written.slots_BKD.shape == (2, 3, compressor.memory_width(backbone))
        memory = MemoryState(written.slots_BKD, text.lengths_B, RATIO)
        with compressor.reading(backbone):
            read_BNV = backbone(text, compressor.read(memory)).logits_BNV
            assert not torch.allclose(read_BNV, backbone(text).logits_BNV, atol=1e-2)

    @torch.no_grad()
    def test_generation_reads_as_a_pass_reads(self, compressor: Compressor, backbone: Backbone) -> None:
        """Prompts of unequal length, a row that holds nothing, one by one and together."""
        memory, prompts = self.memory([8, 0, 3]), [[5, 6, 7, 8], [9, 10], [11]]
        for prefix in (compressor.read(memory), compressor.read_to_reconstruct(memory)):
            new = backbone.generate(prompts, prefix, max_new_tokens=5, do_sample=False)
            for b, prompt in enumerate(prompts):
                one = compressor.read(memory.rows(torch.tensor([b])))
                if prefix.n_positions > prefix.n_cached:
                    one = compressor.read_to_reconstruct(memory.rows(torch.tensor([b])))
                ids = list(prompt)
                for _ in range(5):
                    token = int(backbone(Segments.pad([ids]), one).logits_BNV[0, -1].argmax())
                    if token == backbone.tokenizer.eos_token_id:
                        break
                    ids.append(token)
                assert new[b] == ids[len(prompt) :]
        assert any(new)

    @torch.no_grad()
    def test_beams_read_their_own_rows_memory(self, compressor: Compressor, backbone: Backbone) -> None:
        memory, beams = self.memory([8, 3, 7]), {"max_new_tokens": 4, "do_sample": False, "num_beams": 3}
        # Loud, so that rows that were mixed up would be continued in another way.
        memory.slots_BKD *= 2
        together = backbone.generate([[5, 6]] * 3, compressor.read(memory), **beams)
        rows = [compressor.read(memory.rows(torch.tensor([b]))) for b in range(3)]
        assert together == [backbone.generate([[5, 6]], one, **beams)[0] for one in rows]
        assert len({*map(tuple, together)}) == 3

    @torch.no_grad()
    def test_half_precision_is_near(self, compressor: Compressor, backbone_folder: Path) -> None:
        text, memory = random_text([9, 6]), self.memory([7, 4])
        whole, half = (
            compressor(Backbone(str(backbone_folder), dtype, lora_rank=0), text, memory)
            for dtype in ("float32", "bfloat16")
        )
        assert half.slots_BKD.dtype == torch.float32
        for near, exact in ((half.slots_BKD, whole.slots_BKD), (half.logits_BNV.float(), whole.logits_BNV)):
            assert 0 < float((near - exact).norm() / exact.norm()) < 0.05


class HiddenStateBattery(CompressorBattery):
    """For subclasses of ``HiddenStateCompressor``; ``build`` also takes ``write_layer`` and ``read_layer``.

    Attributes:
        explains: Share of variance that reading explains at least, once it is calibrated on an untrained model.
    """

    explains: ClassVar[float] = 0.1

    @torch.no_grad()
    @pytest.mark.parametrize(("write_layer", "read_layer"), [(1, 0), (2, 1)])
    def test_calibration_reads_slots_as_what_they_cover(
        self, backbone: Backbone, write_layer: int, read_layer: int
    ) -> None:
        compressor = self.build(ratio=RATIO, write_layer=write_layer, read_layer=read_layer)
        sample, fresh = random_text([32] * 128), random_text([32] * 64, seed=9)

        def error() -> float:
            slots_BKD = compressor(backbone, fresh, None, logits=False).slots_BKD
            prefix = compressor.read(MemoryState(slots_BKD, fresh.lengths_B, RATIO))
            states_BND = backbone.embed(fresh.ids_BN)
            if read_layer:
                states_BND = backbone(fresh, capture=read_layer, logits=False).text_BND
            wanted_BKD = compressor.pool(states_BND, fresh)
            return float((prefix.states_BPD[:, 1:] - wanted_BKD).square().mean() / wanted_BKD.var())

        before = error()
        explained = compressor.calibrate(backbone, sample, lambda slots_BKD: slots_BKD)
        assert self.explains < explained <= 1
        after = error()
        assert after < 1 and after < before / 2, (explained, before, after)

    @torch.no_grad()
    def test_calibration_fits_finished_slots(self, compressor: Compressor, backbone: Backbone) -> None:
        """What is read is ``V_S``, not ``V_0``: doubled by the stack, it is read as the same states."""
        sample, twin = random_text([32] * 16), self.new()
        compressor.calibrate(backbone, sample, lambda slots_BKD: slots_BKD)
        twin.calibrate(backbone, sample, lambda slots_BKD: 2 * slots_BKD)
        memory = self.memory([8, 5])
        doubled = MemoryState(2 * memory.slots_BKD, memory.lengths_B, RATIO)
        torch.testing.assert_close(
            twin.read(doubled).states_BPD, compressor.read(memory).states_BPD, atol=1e-4, rtol=1e-4
        )

    def test_calibration_needs_text(self, compressor: Compressor, backbone: Backbone) -> None:
        with pytest.raises(InputError, match="longer and more varied"):
            compressor.calibrate(backbone, random_text([1]), lambda slots_BKD: slots_BKD)

    @torch.no_grad()
    def test_a_memory_read_above_where_it_is_written_holds_its_segment_alone(self, backbone: Backbone) -> None:
        text, memory = random_text([9]), self.memory([8])
        carried = [
            compressor(backbone, text, held, logits=False).slots_BKD
            for compressor in (self.build(ratio=RATIO, write_layer=2, read_layer=2),)
            for held in (None, memory)
        ]
        torch.testing.assert_close(carried[0], carried[1], atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize("layers", [{"write_layer": 0}, {"read_layer": -1}])
    def test_impossible_layers(self, layers: dict[str, int]) -> None:
        with pytest.raises(ValueError, match="is not possible"):
            self.build(ratio=RATIO, **layers)
