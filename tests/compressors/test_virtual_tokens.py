"""The shared tests of compressors, for ``VirtualTokens``, and what is its own."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from r3mem import Backbone, ConfigError, MemoryState, Segments
from r3mem.compressors import MeanPool, VirtualTokens
from tests.battery.compressor import HiddenStateBattery, random_text
from tests.tiny_models import VOCABULARY, WIDTH, awaken_adapters


class TestVirtualTokens(HiddenStateBattery):
    build = staticmethod(partial(VirtualTokens, WIDTH, write_layer=2, read_layer=1))


@torch.no_grad()
def test_pooled_goes_from_slots_alone_to_the_mean_alone(tiny_backbone: Callable[..., Backbone]) -> None:
    backbone, text = tiny_backbone().eval(), Segments.pad([[9, 8, 7, 6, 5, 4], [1, 2]])
    slots = [
        VirtualTokens(WIDTH, 4, 2, 1, pooled=pooled)(backbone, text, None, logits=False).slots_BKD
        for pooled in (0.0, 0.25, 1.0)
    ]
    torch.testing.assert_close(slots[1], 0.75 * slots[0] + 0.25 * slots[2], atol=1e-5, rtol=1e-5)
    mean_BKD = MeanPool(WIDTH, 4, 2, 1)(backbone, text, None, logits=False).slots_BKD
    torch.testing.assert_close(slots[2], mean_BKD, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(slots[0], slots[2], atol=0.1)


def test_pooled_out_of_range() -> None:
    with pytest.raises(ConfigError, match="from 0 to 1"):
        VirtualTokens(WIDTH, pooled=1.5)


def test_an_uncalibrated_memory_is_learned_through_many_layers(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    """Where an anchor is zero it stays zero, and every norm on the way multiplies gradients by hundreds."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=24, num_attention_heads=4
    )
    backbone = Backbone.wrap(LlamaForCausalLM(config), byte_tokenizer, "deep")
    awaken_adapters(backbone)
    compressor, text = VirtualTokens(WIDTH, 4, write_layer=4, read_layer=1), random_text([16])
    written = compressor(backbone, text, None, logits=False)
    out = compressor(backbone, text, MemoryState(written.slots_BKD, text.lengths_B, 4))
    assert out.logits_BNV is not None
    out.logits_BNV.log_softmax(-1)[..., 0].mean().backward()
    grads = [p.grad for m in (backbone, compressor) for p in m.parameters() if p.grad is not None]
    assert len(grads) > 100 and all(bool(grad.isfinite().all()) for grad in grads)
