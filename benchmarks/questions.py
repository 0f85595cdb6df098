"""Questions with the paragraphs that they came with, of HotpotQA, MuSiQue and 2WikiMultihopQA."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.text_files import read_lines
from r3mem import InputError

DEV_FILES = ("hotpotqa/dev.jsonl.xz", "musique/dev.jsonl.xz", "2wikimultihopqa/dev.jsonl.xz")


@dataclass(frozen=True)
class QuestionItem:
    """A question and the paragraphs to find its answer in.

    Attributes:
        question: The question.
        answer: Its answer.
        passages: The paragraphs, each its title, a line end and its text.
        supporting: For each paragraph, whether the answer needs it.
    """

    question: str
    answer: str
    passages: list[str]
    supporting: list[bool]


def dev_files() -> list[str]:
    """The three development files under ``$R3MEM_DATA``.

    Raises:
        InputError: The variable is not set.
    """
    folder = os.environ.get("R3MEM_DATA")
    if not folder:
        raise InputError("no questions given: pass files by --text, or set R3MEM_DATA to the folder that holds them")
    return [str(Path(folder) / name) for name in DEV_FILES]


def read_questions(path: str | Path) -> list[QuestionItem]:
    """Read the records of a file (``.jsonl``, also ``.gz`` or ``.xz``) in the form of any of the three sets.

    Raises:
        InputError: The file cannot be read, or a line is of another form.
    """
    items = []
    for number, line in enumerate(read_lines(Path(path)), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            pairs = list(_paragraphs(record))
            passages = [f"{title}\n{text}".strip() for title, text, _ in pairs]
            items.append(
                QuestionItem(record["question"], str(record["answer"]), passages, [bool(mark) for *_, mark in pairs])
            )
        except (json.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}, line {number}: not a question with paragraphs as HotpotQA, MuSiQue or 2WikiMultihopQA have "
                f"them ({type(error).__name__}: {error})"
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
