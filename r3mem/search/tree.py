"""Search down the trees of stored documents by query likelihood, by the words of recalled texts, or by both.

Shape legend: B nodes, N query tokens, K virtual tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from r3mem.backbone.evaluation_mode import evaluating
from r3mem.errors import ConfigError, InputError
from r3mem.errors.whole_numbers import check_whole, whole_number
from r3mem.memory import Memory, Segments
from r3mem.memory.states import joined
from r3mem.memory.tree_memory import TreeMemory
from r3mem.model import R3Mem
from r3mem.model.reach import positions_read
from r3mem.objectives import log_likelihood
from r3mem.plain_data.query_template import TEMPLATE, QueryTemplate
from r3mem.search.base import Searcher, check_text
from r3mem.search.bm25 import BM25
from r3mem.search.reciprocal_rank_fusion import reciprocal_ranks
from r3mem.search.tree_words import TreeWords

# Most query tokens that are read at a time, over all memories of a batch.
BATCH_TOKENS = 8192
#: What a search may rank by.
WAYS = ("likelihood", "words", "both")
#: Scores by document and node.
Scored: TypeAlias = dict[tuple[int, int], float]


@dataclass(frozen=True)
class Hit:
    """A node that was found.

    Attributes:
        document: Number of the document.
        node: Index of the node in the document's tree.
        score: What the search ranks by: ``log p(query | memory of the node)`` in nats, the score of its words, or with
            both the sum of its reciprocal ranks.
    """

    document: int
    node: int
    score: float


class TreeSearch:
    """Walks down from the document level, keeping the best ``beam`` nodes of each level (docs/hierarchy.md).

    ```
    level 0    a   B   C   d        all of them are scored; B and C are the best two
    level 1      e F   g H          only their children are
    level 2       i J   K           i, J and K are found
    ```

    Likelihood finds what a question is about, words find a name or number letter by letter. Words need the texts:
    they are recalled from the memories at the first query, and an index of their words is kept for the next.

    ``both`` fuses the two rankings (:class:`ReciprocalRankFusion`). The best ``beam`` nodes by words are read too,
    wherever they stand. A node without a word of the query has a rank by likelihood alone.

    Args:
        model: The model that made the memories.
        beam: Nodes of each level whose children are looked at; the more, the surer and the slower.
        template: What stands between a memory and the query; ends with ``{query}``.
        batch: Memories read at a time.
        by: ``likelihood`` of the query given a memory, ``words`` of the recalled texts, or ``both``.
        words: What searches the texts; None for :class:`BM25`. Several threads need one each, or share the search.
    """

    def __init__(
        self,
        model: R3Mem,
        beam: int = 8,
        template: str = TEMPLATE,
        batch: int = 32,
        by: str = "likelihood",
        words: Searcher | None = None,
    ) -> None:
        check_whole(beam=beam, batch=batch)
        QueryTemplate(template)  # Refuses one that cannot serve.
        if beam < 1 or batch < 1:
            raise ConfigError(f"beam {beam} and batch {batch} must be at least 1")
        if by not in WAYS:
            raise ConfigError(f"by {by!r} is not possible: search by {', '.join(map(repr, WAYS))}")
        if words is not None and not isinstance(words, Searcher):
            raise ConfigError(f"words is a Searcher, not {type(words).__name__}: give one such as BM25('german')")
        if words is not None and by == "likelihood":
            raise ConfigError("words has no use in a search by likelihood: leave it out, or search by 'both'")
        self.model, self.beam, self.template, self.batch, self.by = model, beam, template, batch, by
        # A search by likelihood alone needs no package for words.
        self.words = BM25() if words is None and by != "likelihood" else words
        self._tree_words = None if self.words is None else TreeWords(model, self.words)

    @torch.no_grad()
    def search(self, memories: Sequence[TreeMemory], query: str, k: int = 5, level: int | None = None) -> list[Hit]:
        """The nodes that fit a query best, best first.

        Args:
            memories: Documents to search.
            query: What is searched for.
            k: How many nodes; by words there are fewer where fewer hold a word of the query.
            level: Level at which to stop; None goes down to the leaves.

        Raises:
            InputError: No documents, or an empty query.
            FingerprintError: A memory was made by another backbone or stack.
            RecallError: By words or both, if a text cannot be given back exactly.
        """
        check_text(query, "the query")
        if not isinstance(memories, list | tuple) or not all(isinstance(memory, TreeMemory) for memory in memories):
            raise InputError("memories are a list of TreeMemory, as retain_tree gives them: give list(trees)")
        if not memories or not query.strip():
            raise InputError("nothing to search: give at least one memory and a query that is not empty")
        if whole_number(k, "k") < 1:
            raise InputError(f"k {k} is not possible: ask for at least 1 node")
        depth = max(len(memory.levels) for memory in memories)
        if level is not None and not 0 <= whole_number(level, "level") < depth:
            raise InputError(f"level {level} is not there: these trees have {depth}, 0 to {depth - 1}")
        if self.by != "words":
            self._check_fits(memories, query)
        if self._tree_words is None:
            found = self._likelihoods(memories, query, level, k, {})
        else:
            found = self._tree_words.scores(memories, query, level)
            if self.by == "both":
                found = self._fused(memories, query, level, k, found)
        return [Hit(d, i, score) for (d, i), score in _best_first(found)[:k]]

    def _fused(self, memories: Sequence[TreeMemory], query: str, level: int | None, k: int, words: Scored) -> Scored:
        """Sums of the reciprocal ranks by words and by likelihood, of every node that was read."""
        read = self._likelihoods(memories, query, level, k, words)
        by_words = dict(zip(words, reciprocal_ranks(list(words.values())), strict=True))
        by_likelihood = reciprocal_ranks(list(read.values()))
        return {at: share + by_words.get(at, 0.0) for at, share in zip(read, by_likelihood, strict=True)}

    def _likelihoods(
        self, memories: Sequence[TreeMemory], query: str, level: int | None, k: int, words: Scored
    ) -> Scored:
        """Log-likelihoods of the nodes that the way down ends at, and of the best by words."""
        asked, given = self._asked(query)
        width = max(self.beam, k)
        ends = {(d, i) for d, memory in enumerate(memories) for i in memory.ends(level)}
        front = [(d, i) for d, memory in enumerate(memories) for i in memory.children(None)]
        found: Scored = {}
        while front:
            scored = {(hit.document, hit.node): hit.score for hit in self._scored(memories, front, asked, given)}
            found |= {at: score for at, score in scored.items() if at in ends}
            inner = [at for at, _ in _best_first(scored)[:width] if at not in ends]
            front = [(d, child) for d, i in inner for child in memories[d].children(i)]
        missed = [at for at, _ in _best_first(words)[:width] if at not in found]
        extra = self._scored(memories, missed, asked, given)
        return found | {(hit.document, hit.node): hit.score for hit in extra}

    def _asked(self, query: str) -> tuple[list[int], int]:
        """Token ids of a query in its template, and how many of them are the template's."""
        template, tokenizer = QueryTemplate(self.template), self.model.backbone.tokenizer
        given = template.given(tokenizer)
        return given + template.scored(tokenizer, query), len(given)

    def _check_fits(self, memories: Sequence[TreeMemory], query: str) -> None:
        """Refuse a query that does not fit behind the largest memory of a level, before anything is read."""
        n_asked = len(self._asked(query)[0])
        largest: dict[int, Memory] = {}
        for memory in memories:
            for level in memory.levels:
                longest = level.part(int(level.lengths_T.argmax()))
                if level.ratio not in largest or longest.n_tokens > largest[level.ratio].n_tokens:
                    largest[level.ratio] = longest
        for node in largest.values():
            with self.model.at_ratio_of(node):
                positions = positions_read(self.model, self.model.state(node))
            self.model.backbone.check_fits(
                positions + n_asked,
                f"a memory of {positions} positions and a query of {n_asked} tokens with its template",
                f"shorten the query of {len(query):,} characters, or search by 'words'",
            )

    def _scored(
        self, memories: Sequence[TreeMemory], nodes: list[tuple[int, int]], asked: list[int], given: int
    ) -> list[Hit]:
        """Scores of nodes, which may be of several levels: those of one ratio are read together."""
        by_ratio: dict[int, list[tuple[int, int]]] = {}
        levels = {at: memories[at[0]].levels[memories[at[0]].nodes[at[1]].level] for at in nodes}
        for at, level in levels.items():
            by_ratio.setdefault(level.ratio, []).append(at)
        hits = []
        for mine in by_ratio.values():
            with evaluating(self.model), self.model.at_ratio_of(levels[mine[0]]):
                batch = max(1, min(self.batch, BATCH_TOKENS // len(asked)))
                for start in range(0, len(mine), batch):
                    part = mine[start : start + batch]
                    query = Segments.pad([asked] * len(part), self.model.backbone.device)
                    states = [self.model.state(memories[d].memory(i)) for d, i in part]
                    scores_B = log_likelihood(self.model.scores(query, joined(states)), query, given).tolist()
                    hits += [Hit(d, i, score) for (d, i), score in zip(part, scores_B, strict=True)]
        return hits


def _best_first(scored: Scored) -> list[tuple[tuple[int, int], float]]:
    return sorted(scored.items(), key=lambda item: -item[1])
