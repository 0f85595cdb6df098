"""Row i of a batch of unequal prompts, each with its own memory, is what the call for row i alone gives."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from r3mem import Backbone, InputError, Memory, R3Mem
from r3mem.compressors import InContextAutoencoder, MeanPool, SelectedKeyValues, VirtualTokens
from r3mem.hierarchy import Flat
from r3mem.reversible import PositionBinding, ReversibleStack
from tests.tiny_models import FAMILIES, RATIO, SEGMENT, TEXT, WIDTH, awaken_adapters, tiny_model

PROMPTS = ["The sword", "K", "What did Sir Launcelot draw forthwith? He drew"]
COMPRESSORS = {
    "middle_layer": lambda: VirtualTokens(WIDTH, RATIO, write_layer=2, read_layer=1),
    "embeddings": lambda: MeanPool(WIDTH, RATIO, write_layer=1, read_layer=0),
    "frozen_reader": lambda: InContextAutoencoder(WIDTH, RATIO),
    "keys_and_values": lambda: SelectedKeyValues(WIDTH, RATIO, sinks=1, layer_share=0.7),
}
Make = Callable[..., R3Mem]


@pytest.fixture
def make(tiny_backbone: Callable[..., Backbone]) -> Make:
    def made(family: str = "llama", compressor: str = "middle_layer") -> R3Mem:
        backbone = tiny_backbone(family)
        awaken_adapters(backbone)
        stack = ReversibleStack([PositionBinding(WIDTH, RATIO, 0.5)])
        return R3Mem(backbone, COMPRESSORS[compressor](), stack, Flat(SEGMENT)).eval()

    return made


def memories(model: R3Mem) -> list[Memory]:
    """Of 2, 40 and 3 tokens."""
    return [model.retain(text) for text in ("ab", TEXT[:40], "xyz")]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_a_batch_of_prompts_with_a_memory_each(make: Make, family: str, compressor: str) -> None:
    model = make(family, compressor)
    kept = memories(model)
    alone = [model.generate(p, m, max_new_tokens=6) for p, m in zip(PROMPTS, kept, strict=True)]
    for order in permutations(range(3)):
        got = model.generate([PROMPTS[i] for i in order], [kept[i] for i in order], max_new_tokens=6)
        assert got == [alone[i] for i in order]
    apart = [model.generate(p, m, max_new_tokens=6, reach="records") for p, m in zip(PROMPTS, kept, strict=True)]
    assert model.generate(PROMPTS, kept, max_new_tokens=6, reach="records") == apart


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_prompts_without_memory(make: Make, family: str) -> None:
    model = make(family)
    assert model.generate(PROMPTS, max_new_tokens=6) == [model.generate(p, max_new_tokens=6) for p in PROMPTS]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_beams_and_several_continuations(make: Make, family: str) -> None:
    model = make(family)
    kept, wanted = memories(model), {"max_new_tokens": 5, "num_beams": 2, "num_return_sequences": 2}
    alone = [model.generate(p, m, **wanted) for p, m in zip(PROMPTS, kept, strict=True)]
    assert all(len(rows) == 2 for rows in alone)
    assert model.generate(PROMPTS, kept, **wanted) == alone


@pytest.mark.parametrize("changed", ["no_pad", "pad_is_end", "right"])
def test_the_tokenizers_own_padding_plays_no_part(
    make: Make, byte_tokenizer: PreTrainedTokenizerFast, changed: str
) -> None:
    expected_model = make()
    expected = expected_model.generate(PROMPTS, memories(expected_model), max_new_tokens=6)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer.backend_tokenizer, eos_token="<eos>")
    if changed != "no_pad":
        tokenizer.pad_token = "<eos>" if changed == "pad_is_end" else "<pad>"
    if changed == "right":
        tokenizer.padding_side = "right"
    backbone = Backbone.wrap(tiny_model("llama"), tokenizer, name="tiny-llama", lora_rank=4)
    awaken_adapters(backbone)
    model = R3Mem(
        backbone, COMPRESSORS["middle_layer"](), ReversibleStack([PositionBinding(WIDTH, RATIO, 0.5)]), Flat(SEGMENT)
    )
    model.load_state_dict(expected_model.state_dict())
    assert model.generate(PROMPTS, memories(model), max_new_tokens=6) == expected


@pytest.mark.parametrize("name", ["input_ids", "attention_mask", "inputs_embeds", "position_ids"])
def test_masks_of_ones_own_are_refused_by_name(make: Make, name: str) -> None:
    with pytest.raises(InputError, match=f"generate takes no {name}: they are made from the prompts"):
        make().generate(PROMPTS, max_new_tokens=2, **{name: torch.ones(3, 9, dtype=torch.long)})


def test_one_prompt_may_have_several_continuations(make: Make) -> None:
    rows = make().generate("The sword", max_new_tokens=4, num_beams=3, num_return_sequences=3)
    assert len(rows) == 3 and len(set(rows)) == 3
