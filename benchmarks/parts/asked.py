"""Questions as token ids: a context of a length that fits, a prompt, the gold answer, and the context's sentences.

Shape legend: N tokens of a context, Q tokens of a prompt, A tokens of an answer.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.parts.questions import QuestionItem, drawn, read_questions
from r3mem import InputError
from r3mem.hierarchy.entity_pipeline import RULES, entity_pipeline
from r3mem.hierarchy.token_starts import token_starts
from r3mem.plain_data.query_template import TEMPLATE
from r3mem.search import BM25

BETWEEN = "\n\n"
PROMPT = f"{TEMPLATE}\nAnswer:"


@dataclass(frozen=True)
class Asked:
    """A question.

    Attributes:
        context_N: What the answer is to be found in.
        prompt_Q: The question behind a context, up to its answer.
        answer_A: The gold answer.
        by_rank_N: Places of the context's tokens, those of BM25's best sentence first, each sentence's in their order.
    """

    context_N: Tensor
    prompt_Q: Tensor
    answer_A: Tensor
    by_rank_N: Tensor

    def best_sentences(self, count: int) -> Tensor:
        """The first ``count`` tokens of the best sentences, in the order of the text; the last sentence may be cut."""
        return self.context_N[self.by_rank_N[:count].sort().values]


@dataclass(frozen=True)
class Draw:
    """Questions that were drawn from a file.

    Attributes:
        asked: The questions.
        too_long: How many were passed over, because what supports them is longer than a context may be.
        paragraphs: Paragraphs that a question came with, on average.
        kept: Paragraphs of a context, on average.
    """

    asked: list[Asked]
    too_long: int
    paragraphs: float
    kept: float


def draw(path: str, tokenizer: Any, count: int, most: int, seed: int) -> Draw:
    """Questions of a file in random order, no two with the same context: intervals take them for independent.

    Args:
        path: File of questions.
        tokenizer: The backbone's.
        count: How many; fewer where the file has fewer.
        most: Tokens of a context at most. Supporting paragraphs are always in it, whole; others, in their order, as
            long as they fit, and in their places. So what is left out is known not to hold the answer. It is the same
            for all that read.
        seed: Of the order.

    Raises:
        InputError: There are not two questions whose support fits.
    """
    items = read_questions(path)
    asked: dict[str, Asked] = {}
    too_long = 0
    sizes: list[tuple[int, int]] = []
    for item in drawn(items, len(items), seed, least=1):
        if len(asked) == count:
            break
        paragraphs = fitting(item, tokenizer, most)
        if paragraphs is None:
            too_long += 1
            continue
        context = BETWEEN.join(paragraphs)
        if context not in asked:
            asked[context] = _asked(context, item, tokenizer)
            sizes.append((len(item.passages), len(paragraphs)))
    if len(asked) < 2:
        raise InputError(
            f"{path}: {len(asked)} questions of whose context {most} tokens hold the support; two are needed, as a "
            "control reads the memory of another: give more questions or a longer --context"
        )
    whole, kept = (sum(size) / len(sizes) for size in zip(*sizes, strict=True))
    return Draw(list(asked.values()), too_long, whole, kept)


def fitting(item: QuestionItem, tokenizer: Any, most: int) -> list[str] | None:
    """The paragraphs of a context of at most ``most`` tokens; None where the supporting ones are longer."""
    kept = list(item.supporting)

    def chosen() -> list[str]:
        return [passage for passage, keep in zip(item.passages, kept, strict=True) if keep]

    def fits() -> bool:
        return len(ids_of(tokenizer, BETWEEN.join(chosen()))) <= most

    if not fits():
        return None
    for i, needed in enumerate(item.supporting):
        if not needed:
            kept[i] = True
            kept[i] = fits()
    return chosen()


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


def sentence_starts(text: str) -> list[int]:
    """First characters of a text's sentences, the first of them 0; by spaCy's rules, none of them blank."""
    ((starts, _),) = entity_pipeline(RULES).read([text], 1, 1)
    kept: list[int] = [0]
    for start in starts:
        if text[kept[-1] : start].strip() and text[start:].strip():
            kept.append(start)
    return kept


def by_rank(context: str, ids: Sequence[int], question: str, tokenizer: Any) -> list[int]:
    """Places of a context's tokens, those of the sentence that BM25 ranks first coming first."""
    starts = sentence_starts(context)
    ends = [*starts[1:], len(context)]
    search = BM25()
    search.index([context[start:end] for start, end in zip(starts, ends, strict=True)])
    firsts, _ = token_starts(context, ids, tokenizer)
    # A space in front of a sentence's first word is a part of its token, so a token is where its last character is.
    lasts = [max(first, following - 1) for first, following in zip(firsts, [*firsts[1:], len(context)], strict=True)]
    places: list[list[int]] = [[] for _ in starts]
    for place, last in enumerate(lasts):
        places[bisect_right(starts, last) - 1].append(place)
    return [place for sentence in search.rank(question) for place in places[sentence]]


def _asked(context: str, item: QuestionItem, tokenizer: Any) -> Asked:
    ids = ids_of(tokenizer, context)
    prompt = ids_of(tokenizer, PROMPT.format(query=item.question.strip()))
    answer = ids_of(tokenizer, f" {item.answer.strip()}")
    ranked = by_rank(context, ids, item.question, tokenizer)
    return Asked(*(torch.tensor(part) for part in (ids, prompt, answer, ranked)))
