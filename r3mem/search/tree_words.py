"""The nodes of stored trees ranked by the words of their texts, which running backward gives."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from typing import Any

from r3mem.memory.tree_memory import TreeMemory
from r3mem.model import R3Mem
from r3mem.model.recalled_text import texts_of_nodes
from r3mem.search.base import Searcher

#: Most characters by which a text is made longer on either side; text without blanks would be taken whole.
REST = 32
_LAST_WORD, _FIRST_WORD = re.compile(r"\S+\Z"), re.compile(r"\S+")


class TreeWords:
    """A searcher over the recalled texts of nodes.

    A word that a cut goes through is whole in the texts of both nodes; neither would be found by half a name or number.

    The texts are recalled at the first query, and again where trees or level are others. Between queries the
    searcher's index of them is kept, and no text that it does not keep itself.

    Args:
        model: The model that made the memories.
        searcher: What searches the texts.
    """

    def __init__(self, model: R3Mem, searcher: Searcher) -> None:
        self.model, self.searcher = model, searcher
        self._of: Any = None
        self._nodes: list[tuple[int, int]] = []
        # One index serves all threads, and holds the texts of one search at a time.
        self._guard = threading.Lock()

    def scores(self, memories: Sequence[TreeMemory], query: str, level: int | None) -> dict[tuple[int, int], float]:
        """Scores of the nodes in which something of the query was found, by document and node.

        Args:
            memories: The documents.
            query: What is searched for.
            level: Level of the nodes; None for the leaves.

        Raises:
            RecallError: A text cannot be given back exactly.
            FingerprintError: A memory was made by another backbone or stack.
        """
        with self._guard:
            told = [level, [_contents(memory) for memory in memories]]
            if [*told, self.searcher.times_indexed] != self._of:
                self._index(memories, level)
                self._of = [*told, self.searcher.times_indexed]
            found = self.searcher.scores(query) if self._nodes else []
        return {at: score for at, score in zip(self._nodes, found, strict=True) if score != self.searcher.no_match}

    def _index(self, memories: Sequence[TreeMemory], level: int | None) -> None:
        self._of = None
        nodes, texts = [], list[str]()
        for d, memory in enumerate(memories):
            ends = memory.ends(level)
            for i, text in zip(ends, with_whole_words(texts_of_nodes(self.model, memory, ends)), strict=True):
                if text.strip():
                    nodes.append((d, i))
                    texts.append(text)
        if texts:
            self.searcher.index(texts)
        self._nodes = nodes


def with_whole_words(texts: Sequence[str]) -> list[str]:
    """Texts that follow each other, each with the rest of the words that it shares with its neighbours.

    Args:
        texts: The texts; joined they are the whole. The rest of a word is at most :data:`REST` characters.
    """
    whole, at, out = "".join(texts), 0, []
    for text in texts:
        start, end = at, at + len(text)
        at = end
        if text.strip():
            before = _LAST_WORD.search(whole, max(0, start - REST), start) if not text[0].isspace() else None
            behind = _FIRST_WORD.match(whole, end, end + REST) if not text[-1].isspace() else None
            text = (before[0] if before else "") + text + (behind[0] if behind else "")
        out.append(text)
    return out


def _contents(memory: TreeMemory) -> Any:
    """What decides a tree's texts, as it is now: its nodes, and name and digests of their token ids."""
    return list(memory.nodes), [(dict(level.fingerprint), list(level.digests)) for level in memory.levels]
