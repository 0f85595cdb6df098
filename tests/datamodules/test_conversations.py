"""Conversations: questions become queries of the nodes that hold their evidence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from datamodules.conversations import ConversationsDataModule
from datamodules.fields import ConversationFields
from tests.battery.data_module import DataModuleBattery
from tests.datamodules.windows import Windows

FIELDS = ConversationFields(
    sessions="days.*",
    date="*",
    speaker="who",
    text="said",
    turn_id="id",
    questions="asked",
    evidence="where",
    name="id",
)


def record(i: int) -> dict[str, Any]:
    days = {
        f"{d} May": [
            {"who": "Ann" if t % 2 else "Bo", "said": f"{i}, {d}, {t}.", "id": f"{d}:{t}"} for t in range(2 + i % 3)
        ]
        for d in range(1, 3)
    }
    return {"id": f"c{i}", "days": days, "asked": [{"question": f"What of {i}?", "answer": "It.", "where": ["2:1"]}]}


class TestConversations(DataModuleBattery):
    records = [record(i) for i in range(12)]

    @staticmethod
    def build(train: str, **options: Any) -> ConversationsDataModule:
        return ConversationsDataModule(train, FIELDS, **{"hierarchy": Windows(8), **options})


def test_a_question_is_a_query_of_the_nodes_that_hold_its_evidence(
    tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(record(1)) + "\n")
    data = ConversationsDataModule(
        str(path), FIELDS, hierarchy=Windows(64), tokenizer=byte_tokenizer, validation_fraction=0.0, test_fraction=0.0,
        cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    data.setup("fit")
    document, loader = data.documents("train")[0], data.train_dataloader()
    (question,) = document.questions
    (span,) = question.spans
    assert document.text[slice(*span)] == "Ann: 1, 2, 1." and question.answer == "It."
    asked: set[str] = set()
    for epoch in range(12):
        loader.batch_sampler.set_epoch(epoch)
        for batch in loader:
            for b, number in enumerate(batch["document_B"].tolist()):
                for t in range(3 if number >= 0 else 0):
                    query, n = batch["query_BTQ"][b, t], int(batch["query_lengths_BT"][b, t])
                    if byte_tokenizer.decode(query[:n]) == f" {question.text}":
                        ids, length = batch["ids_BTN"][b, t], int(batch["lengths_BT"][b, t])
                        asked.add(byte_tokenizer.decode(ids[:length]))
    assert asked and all("Ann: 1, 2, 1." in text for text in asked)
