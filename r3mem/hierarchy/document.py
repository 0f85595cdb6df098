"""What a hierarchy cuts: a text, its tokens, and what is known of it before it is read.

All places in a text are characters; a tree's places are tokens as well (`Document.starts` leads from one to the other).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Part:
    """A part that the document itself marks: a chapter, a section, a turn of a dialogue.

    Attributes:
        start: First character.
        end: One past the last character.
        depth: 0 for the coarsest kind of part, 1 for parts inside those, and so on.
        title: Heading, speaker or date; may be empty.
    """

    start: int
    end: int
    depth: int = 0
    title: str = ""


@dataclass(frozen=True)
class Mention:
    """A mention of an entity.

    Attributes:
        start: First character.
        end: One past the last character.
        kind: Type of the entity in the words of whoever marked it, such as ``PERSON`` or ``LOC``.
    """

    start: int
    end: int
    kind: str = ""


@dataclass(frozen=True)
class Question:
    """A question about a document that a data set brings.

    Attributes:
        text: The question.
        answer: The gold answer; may be empty.
        spans: Characters ``(start, end)`` that support the answer; empty if that is not known.
    """

    text: str
    answer: str = ""
    spans: tuple[tuple[int, int], ...] = ()


@dataclass
class Document:
    """A text with its tokens. Build one with :meth:`of`; with ids alone only `Flat` can cut it.

    Attributes:
        ids: Token ids of the whole text.
        text: The text; empty where only ids are known.
        starts: Character at which each token begins, in order; as long as ``ids``, or empty where only ids are known.
        title: What the document is called; may be empty.
        parts: Parts that the document marks, in order; empty if it marks none.
        mentions: Gold entity mentions in order; None where nobody marked any.
        questions: Questions that the data set brings.
        name: The document's id in its source.
    """

    ids: list[int]
    text: str = ""
    starts: list[int] = field(default_factory=list, repr=False)
    title: str = ""
    parts: Sequence[Part] = ()
    mentions: Sequence[Mention] | None = None
    questions: Sequence[Question] = ()
    name: str = ""
