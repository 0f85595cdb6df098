"""The objective on (context, query) pairs: segments with queries that name them, in both directions (docs/method.md).

Shape legend: B rows, T segments of a row, M rows of several segments, A those of them that
ask, N tokens of a segment, Q tokens of a query, K virtual tokens, V vocabulary.

::

    compress   memory of a segment -> template, query        query:    -log p(query | memory)
                                                             contrast: -log p(this segment's memory | query)
    expand     memory, template, query -> segment            expand:   -log p(segment | memory, query)
    refine     memory of the segment above -> segment        forward:  -log p(segment | memory above)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_modules.batch_pass import BatchPass, Sums, add_terms, total
from lightning_modules.token_metrics import PAIR_TERMS, EvaluationMetrics
from r3mem.memory import MemoryState, Segments
from r3mem.objectives import Candidates, Need, Reading, Span, StepContext, Term, log_likelihood, needs_of, ready

SEGMENT = Need.MEMORY | Need.RECONSTRUCTION | Need.STREAMS | Need.SCORES
QUERIES = Need.MEMORY | Need.QUERY | Need.EXPANSION


class PairPass(BatchPass):
    """Batches of T segments of each row, each compressed with the memory of its source, and queries of some.

    Without replay the segments of a chain are read in one pass after they have been compressed, which is faster.
    """

    places = (SEGMENT, QUERIES, Need.CANDIDATES)
    otherwise = "streams of segments: use DocumentsDataModule"

    def sums(
        self, batch: dict[str, Tensor], terms: Sequence[Term], state: MemoryState | None = None
    ) -> tuple[Sums, MemoryState | None]:
        """See :meth:`BatchPass.sums`; nothing is carried from batch to batch."""
        sums: Sums = {term.name: [] for term in terms}
        own, queries, candidates = (self.at(terms, place) for place in self.places)
        states, texts = self._segments(batch, own, sums)
        if queries or candidates:
            scores_BT = self._queries(batch, states, texts, queries, bool(candidates), sums)
            if candidates:
                self._candidates(batch, states, scores_BT, candidates, sums)
        return sums, None

    def measure(self, batch: dict[str, Tensor], metrics: EvaluationMetrics) -> dict[str, Metric]:
        """Terms that tell how well segments and queries are foreseen."""
        found, _ = self.sums(batch, PAIR_TERMS)
        device = batch["ids_BTN"].device
        return {name: metrics.pair_term(name, *total(parts, device)) for name, parts in found.items()}

    def _segments(
        self, batch: dict[str, Tensor], terms: Sequence[Term], sums: Sums
    ) -> tuple[list[MemoryState], list[Segments]]:
        """Memories of all segments and their texts; the terms of segments are added on the way."""
        states: list[MemoryState] = []
        texts: list[Segments] = []
        behind: list[tuple[MemoryState, Segments]] = []
        ratios = self.model.hierarchy.ratios
        levels, sources = batch["level_T"].tolist(), batch["source_T"].tolist()
        every_B = torch.arange(len(batch["ids_BTN"]), device=batch["ids_BTN"].device)
        readers = [term for term in terms if Need.SCORES in term.needs]
        # A term that reads and asks for the segment's own parts as well needs both of one pass.
        apart = not self.replay.on and all(term.needs == Need.SCORES for term in readers)
        for t, (level, source) in enumerate(zip(levels, sources, strict=True)):
            with self.model.at_ratio(ratios[min(level, len(ratios) - 1)]):
                # A batch is as wide as its longest segment, a document's: below, most of it would be padding.
                text = _part(Segments(batch["ids_BTN"][:, t], batch["lengths_BT"][:, t]), every_B)
                above = states[source] if source >= 0 else None
                reads = above is not None and bool(readers)
                # A chain of short segments is compressed one by one and then read at once: few rows cost as much time
                # as many. Read in the pass that compresses them, every one would go through all layers alone.
                later = apart and levels.count(level) > 1
                step = self.replay(self.model.step, text, above, reads and not later, level)
                # As a stored memory is read: not more slots than a state may hold.
                states.append(self.model.next_state(None, step.state))
                texts.append(text)
                parts = self.own_parts(step, text)
                if step.scores is not None and above is not None:
                    reading = Reading(step.scores, (above.lengths_B > 0) & (text.lengths_B > 0))
                    parts[Need.SCORES] = ready(reading)
                add_terms(sums, terms, StepContext(parts, text))
                if reads and later and above is not None:
                    behind.append((above, text))
        self._chain(behind, readers, sums)
        return states, texts

    def _chain(self, behind: list[tuple[MemoryState, Segments]], terms: Sequence[Term], sums: Sums) -> None:
        """Terms of segments that are read at once, each given the memory of the one before."""
        for ratio in dict.fromkeys(above.ratio for above, _ in behind):
            mine = [(above, text) for above, text in behind if above.ratio == ratio]
            above, text = MemoryState.stacked([a for a, _ in mine]), _beneath([text for _, text in mine])
            with self.model.at_ratio(ratio):
                reading = Reading(self.model.scores(text, above), (above.lengths_B > 0) & (text.lengths_B > 0))
                add_terms(sums, terms, StepContext({Need.SCORES: ready(reading)}, text))

    def _queries(
        self,
        batch: dict[str, Tensor],
        states: list[MemoryState],
        texts: list[Segments],
        terms: Sequence[Term],
        candidates: bool,
        sums: Sums,
    ) -> Tensor:
        """Log-likelihood of each query given the memory of its segment, ``BT``, where candidates are compared; and the
        terms of queries."""
        n_rows, n_segments = batch["lengths_BT"].shape
        scores_TB = torch.zeros(n_segments, n_rows, device=batch["lengths_BT"].device)
        for ratio in dict.fromkeys(state.ratio for state in states):
            places = [t for t, state in enumerate(states) if state.ratio == ratio]
            state, text = MemoryState.stacked([states[t] for t in places]), _beneath([texts[t] for t in places])
            query = _beneath([Segments(batch["query_BTQ"][:, t], batch["query_lengths_BT"][:, t]) for t in places])
            asks_M = torch.cat([batch["relevant_BT"][:, t] for t in places]) & (query.lengths_B > 0)
            # Rows that ask nothing are not read. A candidate that is no answer is read for the comparison alone.
            index_A = _rows(query.lengths_B > 0 if candidates else asks_M)
            with self.model.at_ratio(ratio):
                context = self._asked(
                    _part(text, index_A), _part(query, index_A), state.rows(index_A), asks_M[index_A],
                    Need.EXPANSION in needs_of(terms),
                )  # fmt: skip
                add_terms(sums, terms, context)
            if candidates:
                found_A = context.query.log_likelihood_B
                found_M = torch.zeros_like(asks_M, dtype=found_A.dtype).index_put((index_A,), found_A)
                rows_TB = torch.tensor(places, device=found_M.device)
                scores_TB = scores_TB.index_put((rows_TB,), found_M.view(len(places), n_rows))
        return scores_TB.T

    def _asked(self, text: Segments, query: Segments, state: MemoryState, asks_A: Tensor, expands: bool) -> StepContext:
        """Queries behind the memories of their segments, and the segments behind both where a term expands."""
        asked, end_A = self._after_template(query), query.lengths_B + self._given
        asked = _followed(asked, text) if expands else asked
        scores = self.model.scores(asked, state)
        query_span = Span(asked, scores, self._given, end_A, asks_A)
        parts: dict[Need, Callable[[], Any]] = {Need.MEMORY: ready(state), Need.QUERY: ready(query_span)}
        if expands:
            parts[Need.EXPANSION] = ready(Span(asked, scores, end_A, asked.lengths_B, asks_A))
        return StepContext(parts, text)

    def _candidates(
        self,
        batch: dict[str, Tensor],
        states: list[MemoryState],
        scores_BT: Tensor,
        terms: Sequence[Term],
        sums: Sums,
    ) -> None:
        relevant_BT, lengths_BT = batch["relevant_BT"], batch["lengths_BT"]
        asks_BT = batch["query_lengths_BT"] > 0
        if bool((asks_BT & ~relevant_BT & (lengths_BT > 0)).any()):
            # The row's other segments are the candidates.
            found = Candidates(scores_BT, relevant_BT & asks_BT, lengths_BT > 0)
            add_terms(sums, terms, StepContext({Need.CANDIDATES: ready(found)}))
            return
        n_rows = len(lengths_BT)
        if n_rows < 2:
            return
        # The other rows' segments of the same place are.
        for t, state in enumerate(states):
            index_A = _rows(asks_BT[:, t])
            query = _part(Segments(batch["query_BTQ"][:, t], batch["query_lengths_BT"][:, t]), index_A)
            each = Segments(query.ids_BN.repeat_interleave(n_rows, 0), query.lengths_B.repeat_interleave(n_rows))
            asked = self._after_template(each)
            every = state.rows(torch.arange(n_rows, device=index_A.device).repeat(len(index_A)))
            found_M = log_likelihood(self.model.scores(asked, every), asked, self._given)
            own_BB = torch.eye(n_rows, dtype=torch.bool, device=found_M.device)
            ids_BN, lengths_B = batch["ids_BTN"][:, t], lengths_BT[:, t]
            # Rows under the same document or paragraph have its segment in common: no wrong candidate for each other.
            same_BB = (ids_BN[:, None] == ids_BN[None]).all(-1) & (lengths_B[:, None] == lengths_B[None])
            candidate_BB = (lengths_B > 0)[None] & (own_BB | ~same_BB) & asks_BT[:, t, None]
            relevant_BB = own_BB & asks_BT[:, t, None]
            of_t = Candidates(found_M.view(-1, n_rows), relevant_BB[index_A], candidate_BB[index_A])
            add_terms(sums, terms, StepContext({Need.CANDIDATES: ready(of_t)}))

    @cached_property
    def _template_ids(self) -> list[int]:
        return self.template.given(self.model.backbone.tokenizer)

    @property
    def _given(self) -> int:
        """How many tokens stand between a memory and a query."""
        return len(self._template_ids)

    def _after_template(self, query: Segments) -> Segments:
        given_G = torch.tensor(self._template_ids, dtype=torch.long, device=query.ids_BN.device)
        given_BG = given_G.expand(len(query.ids_BN), -1)
        return Segments(torch.cat([given_BG, query.ids_BN], 1), query.lengths_B + self._given)


def _rows(wanted_B: Tensor) -> Tensor:
    """Numbers of the rows that are wanted; row 0 if none is.

    Where processes share the weights, each must run the backbone as often as the others, whatever its rows hold.
    """
    rows_A = wanted_B.nonzero()[:, 0]
    return rows_A if len(rows_A) else torch.zeros(1, dtype=torch.long, device=wanted_B.device)


def _part(text: Segments, index_A: Tensor) -> Segments:
    """Some rows, padded to the longest of them only."""
    lengths_A = text.lengths_B[index_A]
    return Segments(text.ids_BN[index_A, : max(1, int(lengths_A.max()))], lengths_A)


def _beneath(texts: list[Segments]) -> Segments:
    """Rows of several batches, padded to the longest."""
    longest = max(text.ids_BN.shape[1] for text in texts)
    ids = [torch.nn.functional.pad(text.ids_BN, (0, longest - text.ids_BN.shape[1])) for text in texts]
    return Segments(torch.cat(ids), torch.cat([text.lengths_B for text in texts]))


def _followed(first: Segments, second: Segments) -> Segments:
    """Each row's second text right behind its first."""
    n_first, n_second = first.ids_BN.shape[1], second.ids_BN.shape[1]
    place_N = torch.arange(n_first + n_second, device=first.ids_BN.device)
    place_BN = place_N - first.lengths_B[:, None]
    behind_BN = second.ids_BN.gather(1, place_BN.clamp(0, n_second - 1))
    front_BN = torch.nn.functional.pad(first.ids_BN, (0, n_second))
    return Segments(torch.where(place_BN < 0, front_BN, behind_BN), first.lengths_B + second.lengths_B)
