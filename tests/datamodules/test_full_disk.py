"""A disk that is full while a data module makes its store: told, nothing left half made, made by the next run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningDataModule
from transformers import PreTrainedTokenizerFast

from datamodules.documents import DocumentsDataModule
from datamodules.fields import QuestionFields
from datamodules.hierarchical import HierarchyDataModule
from datamodules.questions import QuestionsDataModule
from r3mem.errors import InputError
from tests.datamodules.windows import Windows
from tests.full_disk import full_disk

WORDS = "word and word " * 500
RECORDS = [{"text": f"{i}. {WORDS}", "q": "Which?", "p": [{"text": WORDS, "s": True}]} for i in range(12)]


def trees(path: str, **options: Any) -> HierarchyDataModule:
    return HierarchyDataModule(path, hierarchy=Windows(512), **options)


def questions(path: str, **options: Any) -> QuestionsDataModule:
    fields = QuestionFields("q", None, "p", None, supporting="s")
    return QuestionsDataModule(path, fields, paragraph_tokens=10_000, **options)


@pytest.mark.parametrize("build", [DocumentsDataModule, trees, questions])
def test_a_store_on_a_full_disk(
    build: Callable[..., LightningDataModule], tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    train, cache = tmp_path / "train.jsonl", tmp_path / "cache"
    train.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))

    def ready() -> Any:
        options = {"tokenizer": byte_tokenizer, "validation_fraction": 0.0, "test_fraction": 0.0}
        data = build(str(train), cache_dir=str(cache), **options)
        data.setup("fit")
        return data

    with (
        full_disk(),
        pytest.raises(InputError, match=r"cache .* cannot be written .*free some space, or set cache_dir"),
    ):
        ready()
    assert [path for path in cache.iterdir() if path.is_dir()] == []
    for _ in range(2):
        assert len(ready().documents("train")) == len(RECORDS)
    (store,) = [path for path in cache.iterdir() if path.is_dir()]
    assert sum(path.stat().st_size for path in store.iterdir()) > 1 << 16
