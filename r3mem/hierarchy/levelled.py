"""Trees of several levels: how they are built; what a segment is compressed with is up to the subclass."""

from __future__ import annotations

from itertools import pairwise

from r3mem.errors import ConfigError, InputError
from r3mem.hierarchy.base import Hierarchy, Node, SegmentTree
from r3mem.hierarchy.document import Document
from r3mem.hierarchy.entities import Annotations, EntityFinder
from r3mem.hierarchy.levels import Level
from r3mem.hierarchy.queries import EntityMentions, KeySentence, Title
from r3mem.hierarchy.segmenters import BlankLines, EntitySentences, Structure


def default_levels(entities: EntityFinder) -> list[Level]:
    """Document, paragraph and entity level: segments of at most 512, 128 and 48 tokens.

    The names of the levels are the paper's (figure 2); how they are cut, their sizes, ratios and queries are ours.

    Args:
        entities: Finds sentences and mentions.
    """
    sentences = EntitySentences(entities)
    paragraphs = BlankLines(finer=sentences)
    return [
        Level("document", Structure(0, finer=paragraphs), tokens=512, ratio=32, query=Title()),
        Level("paragraph", paragraphs, tokens=128, ratio=16, query=KeySentence()),
        Level("entity", sentences, tokens=48, ratio=8, query=EntityMentions()),
    ]


class Levelled(Hierarchy):
    """Cuts a document level by level; every level tiles it.

    ```
    level 0   |---------------- 512 ----------------|------------ 480 ...   document
    level 1   |------ 120 ------|------ 128 ------|- ...                    paragraph
    level 2   |-- 41 --|-- 48 --|31-|...                                    entity
    ```

    A segment that the next level need not cut appears there again, as its own only child. Nodes are listed level by
    level, in document order.

    Args:
        levels: The levels, coarsest first. None takes `default_levels`.
        entities: Finds the mentions and sentences that queries need. None makes one with its own defaults.
        query_tokens: Most tokens of a query.
    """

    def __init__(
        self, levels: list[Level] | None = None, entities: EntityFinder | None = None, query_tokens: int = 16
    ) -> None:
        self.entities = EntityFinder() if entities is None else entities
        self.levels = default_levels(self.entities) if levels is None else list(levels)
        if not self.levels:
            raise ConfigError("a hierarchy needs at least one level; leave levels out for the default ones")
        for above, below in pairwise(self.levels):
            if below.tokens > above.tokens:
                raise ConfigError(
                    f"level {below.name!r} has segments of {below.tokens} tokens, level {above.name!r} above it of "
                    f"{above.tokens}: list the levels coarsest first"
                )
        super().__init__(self.levels[-1].tokens, query_tokens)

    @property
    def ratios(self) -> list[int | None]:
        """See :attr:`Hierarchy.ratios`."""
        return [level.ratio for level in self.levels]

    @property
    def level_names(self) -> list[str]:
        """See :attr:`Hierarchy.level_names`."""
        return [level.name for level in self.levels]

    def build(self, document: Document) -> SegmentTree:
        """See :meth:`Hierarchy.build`.

        Raises:
            InputError: Only the ids of the document are known.
        """
        if len(document.starts) != len(document.ids):
            raise InputError(
                f"{type(self).__name__} cuts texts, and this document has token ids alone: make it with "
                "Document.of(text, tokenizer), or use Flat"
            )
        tree = SegmentTree(document)
        above: list[tuple[int | None, int, int]] = [(None, 0, len(document.ids))] if document.ids else []
        mentions = self._mentions(document)
        for depth, level in enumerate(self.levels):
            here: list[tuple[int | None, int, int]] = []
            for parent, first, last in above:
                for start, end in level.segmenter.pieces(document, first, last, level.tokens):
                    here.append((len(tree.nodes), start, end))
                    held = mentions.mentions_in(document.char(start), document.char(end)) if mentions else ()
                    tree.nodes.append(Node(start, end, depth, parent, tuple(held)))
            above = here
        return tree

    def _mentions(self, document: Document) -> Annotations | None:
        """Mentions of a document; where no level makes queries none are looked for, and spaCy is not needed."""
        if document.mentions is not None:
            return Annotations((), document.mentions)
        asked = bool(document.ids) and any(level.query is not None for level in self.levels)
        return self.entities.read(document) if asked else None

    def queries(self, tree: SegmentTree, index: int) -> list[str]:
        """What the level's query builder says, then the document's questions with a span that lies in the segment.

        Args:
            tree: The tree.
            index: The segment, as an index of the tree's nodes.
        """
        node = tree.nodes[index]
        builder = self.levels[node.level].query
        start, end = tree.chars(node)
        asked = [
            question.text
            for question in tree.document.questions
            if any(start <= first and last <= end for first, last in question.spans)
        ]
        made = [] if builder is None else builder.queries(tree, node, self.entities.read(tree.document))
        return [*made, *asked]
