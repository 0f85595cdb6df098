"""What attacks on memories found: texts with leading blanks, modes, odd numbers, joins, data changed in place."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import decoders, normalizers
from torch import nn
from transformers import PreTrainedTokenizerFast

from r3mem import Backbone, R3Mem
from tests.cases.conftest import spaced_tokenizer
from tests.tiny_models import TEXT, awaken_adapters, same_memory, tiny_r3mem


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
