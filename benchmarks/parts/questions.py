"""Questions with the paragraphs that they came with: HotpotQA, MuSiQue, 2WikiMultihopQA, SQuAD, Natural Questions."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from benchmarks.parts.harness import ROOT
from datamodules.fields import QuestionFields
from datamodules.question_reader import QuestionReader
from datamodules.sources import Record, open_source
from r3mem import InputError

#: Of several paragraphs a question, of which some support its answer.
DEV_FILES = ("hotpotqa/dev.jsonl.xz", "musique/dev.jsonl.xz", "2wikimultihopqa/dev.jsonl.xz")
#: Whose answers are asked for: one passage a question, and HotpotQA.
ANSWER_FILES = ("squad_xquad_en/xquad_en.jsonl.gz", "nq_open_gold/nq_open_gold.jsonl.xz", "hotpotqa/dev.jsonl.xz")
FORMS = "HotpotQA, MuSiQue, 2WikiMultihopQA, SQuAD or Natural Questions with gold passages"
#: The key that holds a record's paragraphs, and the file of ``configs/data/`` that says how such records are read.
SETS = {"contexts": "hotpotqa", "paragraphs": "musique", "context": "2wikimultihopqa"}


@dataclass(frozen=True)
class QuestionItem:
    """A question and the paragraphs to find its answer in.

    Attributes:
        question: The question.
        answer: Its answer; the first of several.
        passages: The paragraphs, each its title, a line end and its text.
        supporting: For each paragraph, whether the answer needs it.
    """

    question: str
    answer: str
    passages: list[str]
    supporting: list[bool]


def data_files(names: Sequence[str]) -> list[str]:
    """Files under ``$R3MEM_DATA``.

    Args:
        names: Their paths there.

    Raises:
        InputError: The variable is not set.
    """
    folder = os.environ.get("R3MEM_DATA")
    if not folder:
        raise InputError("no questions given: pass files by --text, or set R3MEM_DATA to the folder that holds them")
    return [str(Path(folder) / name) for name in names]


def read_questions(path: str | Path) -> list[QuestionItem]:
    """Read the records of a file (``.jsonl``, also ``.gz`` or ``.xz``) in the form of any of the sets.

    Questions without a supporting paragraph, and paragraphs without text, are left out as in training.

    Raises:
        InputError: The file cannot be read, or a record is of another form.
    """
    items: list[QuestionItem] = []
    read: Callable[[Record], list[QuestionItem]] | None = None
    for record in open_source(str(path)).records():
        try:
            read = read or _reader_of(record.value)
            items += read(record)
        except InputError:
            raise
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise InputError(
                f"{record.origin}: not a question with paragraphs as {FORMS} have them "
                f"({type(error).__name__}: {error})"
            ) from error
    if not items:
        raise InputError(f"{path}: no question in it")
    return items


def drawn(items: list[QuestionItem], count: int, seed: int, least: int = 10) -> list[QuestionItem]:
    """Some questions in random order; the first of them are the same for any count.

    Args:
        items: All questions.
        count: How many to draw; all if there are fewer.
        seed: Of the order.
        least: Questions with fewer paragraphs are left out: to find 2 among 2 is no search. So are those without a
            supporting paragraph.

    Raises:
        InputError: No question is left.
    """
    fit = [item for item in items if len(item.passages) >= least and any(item.supporting)]
    if not fit:
        raise InputError(f"none of {len(items)} questions has at least {least} paragraphs with a supporting one")
    return random.Random(seed).sample(fit, len(fit))[:count]


def _reader_of(record: dict[str, Any]) -> Callable[[Record], list[QuestionItem]]:
    """What reads records of the form of a file's first one."""
    if "question" not in record:
        return lambda record: list(_squad(record.value))
    if "passage" in record:
        return lambda record: [_natural(record.value)]
    name = next((name for key, name in SETS.items() if key in record), None)
    if name is None:
        raise LookupError(f"none of {', '.join(SETS)} in it")
    settings = OmegaConf.load(ROOT / "configs" / "data" / f"{name}.yaml")
    fields = cast(dict[str, Any], OmegaConf.to_container(settings.data.init_args.fields))
    # Nothing here is called by its id, so a record may lack it.
    reader = QuestionReader(QuestionFields(**{**fields, "name": None}))

    def read(record: Record) -> list[QuestionItem]:
        found = reader(record)
        if found is None:
            return []
        passages = [paragraph.text.strip() for paragraph in found.paragraphs]
        return [QuestionItem(found.question, found.answer, passages, [p.supporting for p in found.paragraphs])]

    return read


def _squad(article: dict[str, Any]) -> Iterator[QuestionItem]:
    """An article's questions: each paragraph has its own."""
    for part in article["paragraphs"]:
        passage = f"{article['title']}\n{part['context']}".strip()
        for asked in part["qas"]:
            yield QuestionItem(asked["question"], asked["answers"][0]["text"], [passage], [True])


def _natural(record: dict[str, Any]) -> QuestionItem:
    """A question of Natural Questions: one passage, which holds the answer."""
    passage = f"{record['title']}\n{record['passage']}".strip()
    return QuestionItem(record["question"], record["answers"][0], [passage], [True])
