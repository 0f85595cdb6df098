"""LoCoMo's turns as entries, and its questions with the turns that hold the answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datamodules.sources import open_source
from r3mem import InputError

#: Questions that cannot be answered, whose evidence is of something else.
ADVERSARIAL = 5


@dataclass(frozen=True)
class Asked:
    """A question.

    Attributes:
        question: Its words.
        evidence: Numbers of the turns that its answer is in.
    """

    question: str
    evidence: frozenset[int]


@dataclass(frozen=True)
class Talk:
    """A conversation.

    Attributes:
        name: Of the conversation.
        turns: Each with who says it, in order.
        asked: Questions about it.
    """

    name: str
    turns: Sequence[str]
    asked: Sequence[Asked]


def read_talks(path: str, most: int | None = None) -> list[Talk]:
    """Conversations of a file of LoCoMo. Questions whose evidence is in no turn are left out, and adversarial ones.

    Args:
        path: The file.
        most: Conversations at most; None for all.

    Raises:
        InputError: The file is of another form.
    """
    talks = list[Talk]()
    for record in open_source(path).records():
        if len(talks) == most:
            break
        if not isinstance(record.value, Mapping) or not {"conversation", "qa"} <= set(record.value):
            raise InputError(f"{record.origin}: not a conversation of LoCoMo with questions; give locomo.jsonl.xz")
        talks.append(_talk(record.value))
    if not talks:
        raise InputError(f"{path}: there is no conversation")
    return talks


def _talk(value: Mapping[str, Any]) -> Talk:
    parts = {key: part for key, part in value["conversation"].items() if isinstance(part, list)}
    turns = [turn for key in sorted(parts, key=lambda key: int(key.rpartition("_")[2])) for turn in parts[key]]
    number = {turn["dia_id"]: i for i, turn in enumerate(turns)}
    asked = list[Asked]()
    for qa in value["qa"]:
        # Several ids in one string are read one by one.
        ids = [id for told in qa.get("evidence") or () for id in re.findall(r"D\d+:\d+", told)]
        evidence = frozenset(number[id] for id in ids if id in number)
        if evidence and qa["category"] != ADVERSARIAL:
            asked.append(Asked(str(qa["question"]), evidence))
    return Talk(str(value.get("sample_id")), [f"{turn['speaker']}: {turn['text']}" for turn in turns], asked)
