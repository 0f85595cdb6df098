"""Search down the trees of stored documents by query likelihood; what is found is recalled by running backward.

Shape legend: B nodes, N query tokens, K virtual tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from r3mem.errors import ConfigError, InputError
from r3mem.evaluation_mode import evaluating
from r3mem.memory import Memory, Segments
from r3mem.model import R3Mem
from r3mem.objectives import log_likelihood
from r3mem.query_template import TEMPLATE, QueryTemplate
from r3mem.reach import positions_read
from r3mem.search.base import check_text
from r3mem.segment_model import joined
from r3mem.tree_memory import TreeMemory
from r3mem.whole_numbers import check_whole, whole_number

# Most query tokens that are read at a time, over all memories of a batch.
BATCH_TOKENS = 8192


@dataclass(frozen=True)
class Hit:
    """A node that was found.

    Attributes:
        document: Number of the document.
        node: Index of the node in the document's tree.
        score: ``log p(query | memory of the node)``, nats.
    """

    document: int
    node: int
    score: float


class TreeSearch:
    """Walks down from the document level, keeping the best ``beam`` nodes of each level (docs/hierarchy.md).

    ```
    level 0    a   B   C   d        all of them are scored; B and C are the best two
    level 1      e F   g H          only their children are
    level 2       i J   K           J and K are found
    ```

    Args:
        model: The model that made the memories.
        beam: Nodes of each level whose children are looked at; the more, the surer and the slower.
        template: What stands between a memory and the query; ends with ``{query}``.
        batch: Memories read at a time.
    """

    def __init__(self, model: R3Mem, beam: int = 8, template: str = TEMPLATE, batch: int = 32) -> None:
        check_whole(beam=beam, batch=batch)
        QueryTemplate(template)  # Refuses one that cannot serve.
        if beam < 1 or batch < 1:
            raise ConfigError(f"beam {beam} and batch {batch} must be at least 1")
        self.model, self.beam, self.template, self.batch = model, beam, template, batch

    @torch.no_grad()
    def search(self, memories: Sequence[TreeMemory], query: str, k: int = 5, level: int | None = None) -> list[Hit]:
        """The nodes under which a query is most likely, best first.

        Args:
            memories: Documents to search.
            query: What is searched for.
            k: How many nodes.
            level: Level at which to stop; None goes down to the leaves.

        Raises:
            InputError: No documents, or an empty query.
            FingerprintError: A memory was made by another backbone or stack.
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
        template, tokenizer = QueryTemplate(self.template), self.model.backbone.tokenizer
        given = template.given(tokenizer)
        asked = given + template.scored(tokenizer, query)
        self._check_fits(memories, query, len(asked))
        front = [(d, i) for d, memory in enumerate(memories) for i in memory.children(None)]
        found: list[Hit] = []
        while front:
            best = sorted(self._scored(memories, front, asked, len(given)), key=lambda hit: -hit.score)
            best = best[: max(self.beam, k)]
            front = []
            for hit in best:
                tree = memories[hit.document]
                children = tree.children(hit.node)
                if not children or tree.nodes[hit.node].level == level:
                    found.append(hit)
                else:
                    front += [(hit.document, child) for child in children]
        return sorted(found, key=lambda hit: -hit.score)[:k]

    def _check_fits(self, memories: Sequence[TreeMemory], query: str, n_asked: int) -> None:
        """Refuse a query that does not fit behind the largest memory of a level, before anything is read."""
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
                f"shorten the query of {len(query):,} characters",
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
