"""Whole documents for prediction: every one once over all processes, batches within their tokens."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.fabric.utilities.apply_func import move_data_to_device
from transformers import PreTrainedTokenizerFast

from datamodules.conversations import ConversationsDataModule
from datamodules.document_batches import DocumentLoader, document_batches
from datamodules.fields import ConversationFields, DocumentFields, QuestionFields
from datamodules.hierarchical import HierarchyDataModule, TreeDataModule
from datamodules.questions import QuestionsDataModule
from r3mem.errors import ConfigError
from tests.battery.data_module import at_rank
from tests.datamodules.windows import Windows

FIELDS = DocumentFields(parts="chapters", part_title="head", part_text="paragraphs", title="title")
BOOKS = [
    {"title": f"Book {i}", "chapters": [{"head": f"Chapter {c}", "paragraphs": ["So it was."]} for c in range(1 + i)]}
    for i in range(5)
]
TURNS = ConversationFields(turns="turns", speaker="by", text="said")
TALKS = [{"turns": [{"by": "Ann", "said": f"It is {i}."}, {"by": "Bo", "said": "Yes."}]} for i in range(5)]


def lines(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def books(folder: Path, tokenizer: PreTrainedTokenizerFast, **options: Any) -> HierarchyDataModule:
    train = lines(folder / "books.jsonl", BOOKS)
    shared = {"fields": FIELDS, "hierarchy": Windows(), "tokenizer": tokenizer, "cache_dir": str(folder / "cache")}
    return HierarchyDataModule(train, **{**shared, **options})


def predicted(data: TreeDataModule) -> DocumentLoader:
    data.setup("predict")
    return data.predict_dataloader()


@settings(max_examples=100, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), max_size=30), tokens=st.integers(1, 60), world_size=st.integers(1, 5))
def test_the_ranks_together_have_every_document_once(lengths: list[int], tokens: int, world_size: int) -> None:
    counted = np.array(lengths, np.int64)
    ranks = [document_batches(counted, tokens, rank, world_size) for rank in range(world_size)]
    assert sorted(chain.from_iterable(chain.from_iterable(ranks))) == list(range(len(lengths)))
    assert len({len(batches) for batches in ranks}) == 1
    # The batches in turn, one of each rank: the order of the documents, whatever the number of ranks.
    together = [batch for turn in zip(*ranks, strict=True) for batch in turn if batch]
    assert together == document_batches(counted, tokens)
    sizes = [sum(lengths[i] for i in batch) for batch in together]
    assert all(size <= tokens or len(batch) == 1 for size, batch in zip(sizes, together, strict=True))
    # Nothing is parted that would fit together.
    following = zip(sizes, together[1:], strict=False)
    assert all(size + lengths[after[0]] > tokens for size, after in following)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_documents_come_whole_in_the_order_of_the_sources(
    tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast, num_workers: int
) -> None:
    """All of the training source, whatever the splits and the shortest length say."""
    data = books(tmp_path, byte_tokenizer, min_tokens=10**6, predict_tokens=100, num_workers=num_workers)
    batches = list(predicted(data))
    assert len(batches) > 2
    assert list(chain.from_iterable(batch["document_B"].tolist() for batch in batches)) == list(range(5))
    found = list(chain.from_iterable(batch["documents"] for batch in batches))
    assert found == list(data.documents("predict"))
    assert [document.title for document in found] == [record["title"] for record in BOOKS]
    assert found[1].parts and found[1].text == "Chapter 0\n\nSo it was.\n\nChapter 1\n\nSo it was."


def test_sources_of_their_own(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    other = lines(tmp_path / "other.jsonl", [{"text": "Another.", "title": "A"}])
    data = books(tmp_path, byte_tokenizer, predict=[other, other], fields=DocumentFields(text="text", title="title"))
    (batch,) = predicted(data)
    assert [document.text for document in batch["documents"]] == ["Another."] * 2
    assert list(data.reports) == [other], "the training source is not read"
    assert data.documents("predict").origin(1) == f"{other}:1"


def test_two_processes_share_the_documents(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    loaders = [predicted(at_rank(books(tmp_path, byte_tokenizer, predict_tokens=60), r, 2)) for r in range(2)]  # type: ignore[arg-type]
    ranks = [[batch["document_B"].tolist() for batch in loader] for loader in loaders]
    assert sorted(chain.from_iterable(chain.from_iterable(ranks))) == list(range(5))
    assert len(ranks[0]) == len(ranks[1]) > 1 and ranks[1][-1] == []


def test_conversations_are_documents_too(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    data = ConversationsDataModule(
        lines(tmp_path / "talks.jsonl", TALKS), TURNS, hierarchy=Windows(), tokenizer=byte_tokenizer,
        cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    (batch,) = predicted(data)
    assert [document.text for document in batch["documents"]] == [f"Ann: It is {i}.\n\nBo: Yes." for i in range(5)]


def test_a_trainer_passes_documents_on_as_they_are(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    (batch,) = predicted(books(tmp_path, byte_tokenizer))
    assert move_data_to_device(batch, "cpu")["documents"] is batch["documents"]


def test_a_batch_holds_at_least_a_token(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ConfigError, match="predict_tokens 0: it must be 1 or more"):
        books(tmp_path, byte_tokenizer, predict_tokens=0)


def test_questions_are_not_predicted() -> None:
    data = QuestionsDataModule("/not/there.jsonl", QuestionFields("q", paragraphs="p", supporting="s"))
    data.setup("predict")
    with pytest.raises(ConfigError, match="the predict documents are not there"):
        data.documents("predict")
