"""Whole documents become memories of trees, of one level where the hierarchy has one; finished ones are left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from datamodules.document_batches import Documents
from lightning_modules.prediction import Prediction
from r3mem import Backbone, R3Mem
from r3mem.hierarchy import Document
from r3mem.memory.tree_memory import TreeMemory
from tests.tiny_models import same_memory, tiny_r3mem

TEXTS = ["One text of more than a segment.", "Two.", "And a third, of more than one as well."]


@pytest.fixture
def model(tiny_backbone: Callable[..., Backbone]) -> R3Mem:
    return tiny_r3mem(tiny_backbone(), share=0.25).eval()


def batch(model: R3Mem, texts: list[str]) -> dict[str, Any]:
    documents = [Document.of(text, model.backbone.tokenizer, title=text[:3]) for text in texts]
    return {"documents": Documents(documents), "document_B": torch.arange(len(texts)) + 4}


def test_one_level_is_the_plain_memory_as_a_tree(model: R3Mem) -> None:
    made = Prediction(model).of(batch(model, TEXTS), True, frozenset())
    assert [document for document, _ in made] == [4, 5, 6]
    for (_, memory), text in zip(made, TEXTS, strict=True):
        assert isinstance(memory, TreeMemory) and memory.title == text[:3] and model.recall(memory) == text
        (level,) = memory.levels
        plain = model.retain(text)
        assert level.lengths_T.tolist() == plain.lengths_T.tolist()
        assert level.fingerprint == plain.fingerprint == model.level_fingerprints[0]
        # Texts of one batch are padded to the longest: equal to the last bit only where none is.
        torch.testing.assert_close(level.data_TKD.float(), plain.data_TKD.float(), atol=2e-2, rtol=2e-2)
    (alone,) = Prediction(model).of(batch(model, TEXTS[:1]), True, frozenset())
    assert isinstance(alone[1], TreeMemory) and same_memory(alone[1].levels[0], model.retain(TEXTS[0]))


def test_finished_documents_are_not_compressed(model: R3Mem, monkeypatch: pytest.MonkeyPatch) -> None:
    compressed: list[str] = []
    inner = model.retain_tree
    monkeypatch.setattr(model, "retain_tree", lambda given: compressed.extend(d.text for d in given) or inner(given))
    prediction = Prediction(model)
    assert [d for d, _ in prediction.of(batch(model, TEXTS), True, {5})] == [4, 6]
    assert compressed == [TEXTS[0], TEXTS[2]]
    assert prediction.of(batch(model, TEXTS), False, {4, 5, 6}) == [] == prediction.of(batch(model, []), False, set())
    assert len(compressed) == 2
