"""Short texts that name a segment: one class for each way to make them.

Every query is one line: white space inside it is folded to single blanks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right

from r3mem.errors import ConfigError
from r3mem.errors.whole_numbers import whole_setting
from r3mem.hierarchy.base import Node, SegmentTree
from r3mem.hierarchy.entities import Annotations
from r3mem.plain_data.components import Component


class QueryBuilder(Component, ABC):
    """Makes queries for segments of one level."""

    @abstractmethod
    def queries(self, tree: SegmentTree, node: Node, found: Annotations) -> list[str]:
        """Short texts that name a segment, best first; may be empty.

        Args:
            tree: The tree.
            node: The segment.
            found: Sentences and mentions of the whole document.
        """


class NoQuery(QueryBuilder):
    """Names no segment: only questions that the data set brings are used."""

    def queries(self, tree: SegmentTree, node: Node, found: Annotations) -> list[str]:
        """See :meth:`QueryBuilder.queries`."""
        return []


class Lead(QueryBuilder):
    """The first words of the segment.

    Args:
        tokens: Tokens of the segment that are taken.
    """

    def __init__(self, tokens: int = 16) -> None:
        if whole_setting(tokens, "tokens") < 1:
            raise ConfigError(f"tokens {tokens} is not possible; a lead holds at least one")
        self.tokens = tokens

    def queries(self, tree: SegmentTree, node: Node, found: Annotations) -> list[str]:
        """See :meth:`QueryBuilder.queries`."""
        document = tree.document
        start, end = tree.chars(node)
        start += len(document.text[start:end]) - len(document.text[start:end].lstrip())
        last = min(document.token_at(start) + self.tokens, node.end)
        return _lines([document.text[start : max(start, document.char(last))]])


class Title(Lead):
    """The title of the document; its lead where it has none.

    Args:
        tokens: Tokens of the lead.
    """

    def queries(self, tree: SegmentTree, node: Node, found: Annotations) -> list[str]:
        """See :meth:`QueryBuilder.queries`."""
        return _lines([tree.document.title]) or super().queries(tree, node, found)


class KeySentence(QueryBuilder):
    """The sentence of the segment with the most entity mentions, of several the earliest."""

    def queries(self, tree: SegmentTree, node: Node, found: Annotations) -> list[str]:
        """See :meth:`QueryBuilder.queries`."""
        start, end = tree.chars(node)
        begins = [start, *(begin for begin in found.sentences_in(start, end) if begin > start)]
        mentions = [0] * len(begins)
        for mention in node.mentions:
            mentions[bisect_right(begins, mention.start) - 1] += 1
        sentences = [tree.document.text[a:b] for a, b in zip(begins, [*begins[1:], end], strict=True)]
        # White space in front of the first sentence of a segment is none.
        spoken = [(-count, i) for i, count in enumerate(mentions) if sentences[i].strip()]
        return _lines([sentences[min(spoken)[1]]]) if spoken else []


class EntityMentions(QueryBuilder):
    """The distinct entity mentions of the segment, in order of appearance, joined by commas."""

    def queries(self, tree: SegmentTree, node: Node, found: Annotations) -> list[str]:
        """See :meth:`QueryBuilder.queries`."""
        names = _lines([tree.document.text[mention.start : mention.end] for mention in node.mentions])
        return [", ".join(dict.fromkeys(names))] if names else []


def _lines(texts: list[str]) -> list[str]:
    """Each text as one line, those of white space left out."""
    return [line for text in texts if (line := " ".join(text.split()))]
