"""What a hierarchy cuts: a text, its tokens, and what is known of it before it is read.

All places in a text are characters; a tree's places are tokens as well (`Document.starts` leads from one to the other).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from r3mem.errors import InputError
from r3mem.hierarchy.paragraph_ends import pieces_at_paragraph_ends
from r3mem.hierarchy.token_starts import token_starts
from r3mem.plain_data.lossless_tokens import lossless_ids
from r3mem.plain_data.text_ids import decoded


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
        inside: Tokens that begin inside a character (a later byte of 漢); a segment that begins at one of them, or ends
            before one, decodes to broken characters.
    """

    ids: list[int]
    text: str = ""
    starts: list[int] = field(default_factory=list, repr=False)
    title: str = ""
    parts: Sequence[Part] = ()
    mentions: Sequence[Mention] | None = None
    questions: Sequence[Question] = ()
    name: str = ""
    inside: frozenset[int] = field(default=frozenset(), repr=False)

    def __hash__(self) -> int:
        """Equal documents have one; it holds as long as nothing in them is changed."""
        return hash((tuple(self.ids), self.text, self.title, self.name))

    @classmethod
    def of(
        cls,
        text: str,
        tokenizer: PreTrainedTokenizerBase,
        title: str = "",
        parts: Iterable[Part] = (),
        mentions: Iterable[Mention] | None = None,
        questions: Sequence[Question] = (),
        name: str = "",
    ) -> Document:
        """Tokenise a text and find where its tokens lie.

        Args:
            text: The text.
            tokenizer: The backbone's tokenizer.
            title: What the document is called.
            parts: Parts that the document marks.
            mentions: Gold entity mentions; None where nobody marked any.
            questions: Questions that the data set brings.
            name: The document's id in its source.

        Raises:
            InputError: The tokenizer loses some of the text.
            ConfigError: The tokenizer cannot say where its tokens lie.
        """
        if not isinstance(text, str):
            raise InputError(f"a document's text is a str, not {type(text).__name__}: decode it first")
        ids = lossless_ids(text, tokenizer)
        starts, inside = token_starts(text, ids, tokenizer) if ids else ([], frozenset())
        return cls(
            ids, text, starts, title,
            sorted(parts, key=lambda part: (part.start, part.depth)),
            None if mentions is None else sorted(mentions, key=lambda mention: (mention.start, mention.end)),
            questions, name, inside,
        )  # fmt: skip

    @classmethod
    def of_ids(cls, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Document:
        """The document that token ids spell, with just those ids, whether or not they are how its text is tokenised.

        Args:
            ids: Token ids.
            tokenizer: The backbone's tokenizer.

        Raises:
            InputError: The ids spell no text: they begin or end inside a character, or the tokenizer loses something.
            ConfigError: The tokenizer cannot say where its tokens lie.
        """
        text = decoded(ids, tokenizer)
        starts, inside = token_starts(text, ids, tokenizer) if text else ([], frozenset())
        return cls(list(ids), text, starts, inside=inside)

    @classmethod
    def stream(
        cls,
        pieces: Iterable[str],
        tokenizer: PreTrainedTokenizerBase,
        characters: int = 50_000,
        title: str = "",
        name: str = "",
    ) -> Iterator[Document]:
        """A long text as consecutive documents, each cut at the end of a paragraph where there is one.

        Memory does not depend on the text's length. The documents' texts, joined, are the pieces, joined. Their names
        end in ``#0``, ``#1``, ...

        Args:
            pieces: The text in any pieces, such as the lines of a file.
            tokenizer: The backbone's tokenizer.
            characters: Most characters of one document.
            title: What the text is called.
            name: The text's id in its source.

        Raises:
            ConfigError: ``characters`` is not positive, or the tokenizer cannot say where its tokens lie.
            InputError: The tokenizer loses some of the text.
        """
        for i, text in enumerate(pieces_at_paragraph_ends(pieces, characters)):
            yield cls.of(text, tokenizer, title=title, name=f"{name}#{i}" if name else "")

    def char(self, token: int) -> int:
        """First character of a token; the length of the text for the place after the last token."""
        return self.starts[token] if token < len(self.starts) else len(self.text)

    def token_at(self, char: int) -> int:
        """The last token that begins at a character, at or before ``char``; the number of tokens at the text's end."""
        if char >= len(self.text):
            return len(self.ids)
        token = bisect_right(self.starts, char) - 1
        while token > 0 and token in self.inside:
            token -= 1
        return max(token, 0)

    def token_from(self, char: int) -> int:
        """The first token that begins at a character, at or after ``char``; the number of tokens if there is none."""
        token = bisect_left(self.starts, char)
        while token in self.inside:
            token += 1
        return token
