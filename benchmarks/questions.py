"""Questions with the paragraphs that they came with: HotpotQA, MuSiQue, 2WikiMultihopQA, SQuAD, Natural Questions."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.text_files import read_lines
from r3mem import InputError

#: Of several paragraphs a question, of which some support its answer.
DEV_FILES = ("hotpotqa/dev.jsonl.xz", "musique/dev.jsonl.xz", "2wikimultihopqa/dev.jsonl.xz")
#: Whose answers are asked for: one passage a question, and HotpotQA.
ANSWER_FILES = ("squad_xquad_en/xquad_en.jsonl.gz", "nq_open_gold/nq_open_gold.jsonl.xz", "hotpotqa/dev.jsonl.xz")
FORMS = "HotpotQA, MuSiQue, 2WikiMultihopQA, SQuAD or Natural Questions with gold passages"


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

    Raises:
        InputError: The file cannot be read, or a line is of another form.
    """
    items: list[QuestionItem] = []
    for number, line in enumerate(read_lines(Path(path)), 1):
        if not line.strip():
            continue
        try:
            items += _items(json.loads(line))
        except (json.JSONDecodeError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}, line {number}: not a question with paragraphs as {FORMS} have them "
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


def _items(record: dict[str, Any]) -> Iterator[QuestionItem]:
    """The questions of a record."""
    if "question" not in record:  # SQuAD: an article, each paragraph with questions of its own.
        for part in record["paragraphs"]:
            passage = _passage(record["title"], part["context"])
            for asked in part["qas"]:
                yield QuestionItem(asked["question"], asked["answers"][0]["text"], [passage], [True])
    elif "passage" in record:  # Natural Questions: one passage, which holds the answer.
        passage = _passage(record["title"], record["passage"])
        yield QuestionItem(record["question"], record["answers"][0], [passage], [True])
    else:
        parts = list(_paragraphs(record))
        passages = [_passage(title, text) for title, text, _ in parts]
        yield QuestionItem(record["question"], str(record["answer"]), passages, [bool(mark) for *_, mark in parts])


def _passage(title: str, text: str) -> str:
    return f"{title}\n{text}".strip()


def _paragraphs(record: dict[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """``(title, text, whether the answer needs it)`` of each paragraph of a record."""
    if "contexts" in record:  # HotpotQA: sentences carry their own spaces.
        for part in record["contexts"]:
            yield part["title"], part["text"] if "text" in part else "".join(part["sentences"]), part["is_supporting"]
    elif "paragraphs" in record:  # MuSiQue.
        for part in record["paragraphs"]:
            yield part["title"], part["paragraph_text"], part["is_supporting"]
    else:  # 2WikiMultihopQA: sentences without spaces around them; support is named by title.
        needed = {title for title, _ in record["supporting_facts"]}
        for title, sentences in record["context"]:
            yield title, " ".join(sentences), title in needed
