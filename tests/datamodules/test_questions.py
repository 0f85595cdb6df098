"""Question answering: candidates in training, all paragraphs in evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from datamodules.fields import QuestionFields
from datamodules.pairs import PairLoader
from datamodules.questions import QuestionsDataModule
from r3mem.errors import ConfigError, InputError
from r3mem.hierarchy import EntityFinder, Refined
from r3mem.model.run_contract import ModelSide
from tests.battery.data_module import DataModuleBattery, Serving, plain

FIELDS = QuestionFields(supporting="yes", name="id")


def record(i: int, n_paragraphs: int = 6, n_supporting: int = 2) -> dict[str, Any]:
    places = {(i + 3 * s) % n_paragraphs for s in range(n_supporting)}
    paragraphs = [{"title": f"T{i}.{p}", "text": f"Text {p} of {i}.", "yes": p in places} for p in range(n_paragraphs)]
    return {"id": f"q{i}", "question": f"Question {i}?", "answer": str(i), "paragraphs": paragraphs}


RECORDS = [record(i) for i in range(13)]


class TestQuestions(DataModuleBattery):
    records = RECORDS

    @staticmethod
    def build(train: str, **options: Any) -> QuestionsDataModule:
        return QuestionsDataModule(train, FIELDS, **{"candidates": 3, **options})


def module(
    folder: Path, tokenizer: PreTrainedTokenizerFast, records: list[dict[str, Any]] = RECORDS, **options: Any
) -> QuestionsDataModule:
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    options = {"fields": FIELDS, "candidates": 4, "validation_fraction": 0.0, "test_fraction": 0.0, **options}
    return QuestionsDataModule(str(path), tokenizer=tokenizer, cache_dir=str(folder / "cache"), **options)


def texts(batch: Any, tokenizer: PreTrainedTokenizerFast, b: int) -> list[str]:
    lengths = batch["lengths_BT"][b].tolist()
    return [tokenizer.decode(ids[:n]) for ids, n in zip(batch["ids_BTN"][b], lengths, strict=True)]


def test_candidates_are_the_supporting_paragraphs_and_others_drawn_anew(
    tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    data = module(tmp_path, byte_tokenizer)
    data.setup("fit")
    loader, questions = data.train_dataloader(), data.documents("train")
    drawn: dict[int, set[tuple[str, ...]]] = {}
    places = set()
    for epoch in range(6):
        loader.batch_sampler.set_epoch(epoch)
        for batch in loader:
            assert batch["level_T"].tolist() == [0] * 4 and batch["source_T"].tolist() == [-1] * 4
            for b, number in enumerate(batch["document_B"].tolist()):
                if number < 0:
                    continue
                question = questions.question(number)
                marks = {p.text: p.supporting for p in question.paragraphs}
                found, relevant = texts(batch, byte_tokenizer, b), batch["relevant_BT"][b].tolist()
                assert len(set(found)) == 4 and [marks[text] for text in found] == relevant and sum(relevant) == 2
                lengths = batch["query_lengths_BT"][b].tolist()
                queries = {byte_tokenizer.decode(q[:n]) for q, n in zip(batch["query_BTQ"][b], lengths, strict=True)}
                assert queries == {f" {question.question}"}
                drawn.setdefault(number, set()).add(tuple(sorted(found)))
                places.add(tuple(relevant))
    assert min(len(negatives) for negatives in drawn.values()) > 1
    assert len(places) == 6  # The place of a paragraph in its row tells nothing.


def test_more_supporting_paragraphs_than_candidates(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    data = module(tmp_path, byte_tokenizer, [record(0, 8, 4)], candidates=3, batch_size=1)
    data.setup("fit")
    loader = data.train_dataloader()
    found = set()
    for epoch in range(8):
        loader.batch_sampler.set_epoch(epoch)
        (batch,) = loader
        assert batch["relevant_BT"].all()
        found |= set(texts(batch, byte_tokenizer, 0))
    assert len(found) == len({(3 * s) % 8 for s in range(4)})


def test_fewer_paragraphs_than_candidates(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    data = module(tmp_path, byte_tokenizer, [record(0, 2, 1), record(1, 6, 1)], candidates=5, batch_size=2)
    data.setup("fit")
    (batch,) = data.train_dataloader()
    b = batch["document_B"].tolist().index(0)
    assert (batch["lengths_BT"][b] > 0).tolist() == [True, True, False, False, False]
    assert (batch["query_lengths_BT"][b] > 0).tolist() == [True, True, False, False, False]


def test_evaluation_has_all_paragraphs_in_order(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    records = [record(0, 5), record(1, 7), record(2, 3)]
    data = module(tmp_path, byte_tokenizer, records, batch_size=2, validation=str(tmp_path / "train.jsonl"))
    data.setup("fit")
    loader = data.val_dataloader()
    assert isinstance(loader, PairLoader)
    first, second = loader
    assert first["ids_BTN"].shape[:2] == (2, 7) and second["ids_BTN"].shape[:2] == (2, 3)
    assert second["document_B"].tolist() == [2, -1] and second["level_T"].tolist() == [0, 0, 0]
    for i, count in enumerate((5, 7)):
        expected = [f"T{i}.{p}\nText {p} of {i}." for p in range(count)]
        assert texts(first, byte_tokenizer, i) == expected + [""] * (7 - count)


def test_documents_hold_question_answer_and_supporting_spans(
    tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    data = module(tmp_path, byte_tokenizer, RECORDS[:2])
    data.setup("fit")
    document = data.documents("train")[1]
    (question,) = document.questions
    assert (question.text, question.answer, document.name) == ("Question 1?", "1", "q1")
    assert [document.text[a:b] for a, b in question.spans] == ["T1.1\nText 1 of 1.", "T1.4\nText 4 of 1."]
    assert [document.text[p.start : p.end] for p in document.parts][4] == "T1.4\nText 4 of 1."
    assert byte_tokenizer.decode(document.ids) == document.text
    assert data.documents("train").origin(1) == f"{tmp_path / 'train.jsonl'}:2"


def test_the_level_is_that_of_the_model_s_paragraphs(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    model = Serving(ModelSide(byte_tokenizer, hierarchy=Refined(entities=EntityFinder("rules"))))
    run = SimpleNamespace(lightning_module=model, overfit_batches=0, distributed_sampler_kwargs=None)
    for level, expected in ((None, 1), (2, 2), (0, 0)):
        data = module(tmp_path, byte_tokenizer, level=level)
        data.trainer = run  # type: ignore[assignment]
        data.setup("fit")
        assert next(iter(data.train_dataloader()))["level_T"].tolist() == [expected] * 4


def test_overfitting_repeats_its_rows(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    data = module(tmp_path, byte_tokenizer)
    data.trainer = SimpleNamespace(lightning_module=None, overfit_batches=1, distributed_sampler_kwargs=None)  # type: ignore[assignment]
    data.setup("fit")
    loader = data.train_dataloader()
    before = [plain(batch) for batch in loader]
    loader.batch_sampler.set_epoch(1)
    assert [plain(batch) for batch in loader] == before and all(len(batch["level_T"]) == 4 for batch in before)


def test_what_cannot_be_used_is_counted(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    data = module(tmp_path, byte_tokenizer, [*RECORDS, record(99, 4, 0)], paragraph_tokens=9)
    data.setup("fit")
    (report,) = data.reports.values()
    assert len(data.documents("train")) == len(RECORDS)
    assert report.left_out["questions without a supporting paragraph"] == 1
    assert report.left_out["ends of paragraphs longer than 9 tokens"] == 6 * len(RECORDS)
    with pytest.raises(InputError, match="nothing in it can be used"):
        module(tmp_path, byte_tokenizer, [record(99, 4, 0)]).setup("fit")
    for wrong in ({"candidates": 0}, {"paragraph_tokens": 0}, {"level": -1}):
        with pytest.raises(ConfigError):
            module(tmp_path, byte_tokenizer, **wrong)
