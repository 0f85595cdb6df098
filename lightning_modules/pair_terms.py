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

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from lightning_modules.segment_terms import Sums, add_own_terms
from r3mem import objectives
from r3mem.memory import MemoryState, Segments
from r3mem.model import R3Mem
from r3mem.segment_model import Step

StepOf = Callable[[Segments, MemoryState | None, bool, int], Step]


class PairTerms:
    """Sums of every term over one batch of pairs.

    Args:
        model: The model.
        given: Token ids that stand between a memory and a query.
        step: Compresses one segment of each row: text, source's memory, whether logits are wanted, level.
        names: Terms that count.
        together: Read the segments of a chain in one pass after they have been compressed, faster, instead of in the
            passes that compress them, which `step` may keep small.
    """

    def __init__(
        self, model: R3Mem, given: list[int], step: StepOf, names: Iterable[str], together: bool = True
    ) -> None:
        self.model, self.given, self.step, self.together = model, given, step, together
        self.sums: Sums = {name: [] for name in names}

    def of(self, batch: dict[str, Tensor]) -> Sums:
        """``(sum, count)`` of every term for each segment of the batch."""
        states: list[MemoryState] = []
        texts: list[Segments] = []
        behind: list[tuple[MemoryState, Segments]] = []
        ratios = self.model.hierarchy.ratios
        levels, sources = batch["level_T"].tolist(), batch["source_T"].tolist()
        every_B = torch.arange(len(batch["ids_BTN"]), device=batch["ids_BTN"].device)
        for t, (level, source) in enumerate(zip(levels, sources, strict=True)):
            with self.model.at_ratio(ratios[min(level, len(ratios) - 1)]):
                # A batch is as wide as its longest segment, a document's: below, most of it would be padding.
                text = _part(Segments(batch["ids_BTN"][:, t], batch["lengths_BT"][:, t]), every_B)
                above = states[source] if source >= 0 else None
                reads = above is not None and "forward" in self.sums
                # A chain of short segments is compressed one by one and then read at once: few rows cost as much time
                # as many. Read in the pass that compresses them, every one would go through all layers alone.
                later = self.together and levels.count(level) > 1
                step = self.step(text, above, reads and not later, level)
                # As a stored memory is read: not more slots than a state may hold.
                states.append(self.model.compressor.next_state(self.model.backbone, None, step.state))
                texts.append(text)
                self._of_segment(step, text, above)
                if reads and later and above is not None:
                    behind.append((above, text))
        self._of_chain(behind)
        scores_BT = self._of_queries(batch, states, texts)
        if "contrast" in self.sums:
            self._contrast(batch, states, scores_BT)
        return self.sums

    def _of_segment(self, step: Step, text: Segments, above: MemoryState | None) -> None:
        if step.scores is not None and above is not None and "forward" in self.sums:
            has_memory_B = (above.lengths_B > 0) & (text.lengths_B > 0)
            self.sums["forward"].append(objectives.forward_nll(step.scores, text, has_memory_B))
        add_own_terms(self.sums, self.model, step, text)

    def _of_chain(self, behind: list[tuple[MemoryState, Segments]]) -> None:
        """Likelihood of segments, each given the memory of the one before."""
        for ratio in dict.fromkeys(above.ratio for above, _ in behind):
            mine = [(above, text) for above, text in behind if above.ratio == ratio]
            above, text = MemoryState.stacked([a for a, _ in mine]), _beneath([text for _, text in mine])
            with self.model.at_ratio(ratio):
                scores = self.model.scores(text, above)
            has_memory_M = (above.lengths_B > 0) & (text.lengths_B > 0)
            self.sums["forward"].append(objectives.forward_nll(scores, text, has_memory_M))

    def _of_queries(self, batch: dict[str, Tensor], states: list[MemoryState], texts: list[Segments]) -> Tensor:
        """Log-likelihood of each query given the memory of its segment, ``BT``; and the terms that come with it."""
        n_rows, n_segments = batch["lengths_BT"].shape
        scores_TB = torch.zeros(n_segments, n_rows, device=batch["lengths_BT"].device)
        if not {"query", "contrast", "expand"} & set(self.sums):
            return scores_TB.T
        for ratio in dict.fromkeys(state.ratio for state in states):
            places = [t for t, state in enumerate(states) if state.ratio == ratio]
            state, text = MemoryState.stacked([states[t] for t in places]), _beneath([texts[t] for t in places])
            query = _beneath([Segments(batch["query_BTQ"][:, t], batch["query_lengths_BT"][:, t]) for t in places])
            asks_M = torch.cat([batch["relevant_BT"][:, t] for t in places]) & (query.lengths_B > 0)
            with self.model.at_ratio(ratio):
                found_M = self._of_query(state, text, query, asks_M)
            rows_TB = torch.tensor(places, device=found_M.device)
            scores_TB = scores_TB.index_put((rows_TB,), found_M.view(len(places), n_rows))
        return scores_TB.T

    def _of_query(self, state: MemoryState, text: Segments, query: Segments, asks_M: Tensor) -> Tensor:
        """The same for segments of one ratio, rows of one after rows of another; log-likelihoods ``M``."""
        given = len(self.given)
        # Rows that ask nothing are not read. A candidate that is no answer is read for the contrast alone.
        index_A = _rows(query.lengths_B > 0 if "contrast" in self.sums else asks_M)
        query, text, asks_A = _part(query, index_A), _part(text, index_A), asks_M[index_A]
        asked = self._after_template(query)
        if "expand" in self.sums:
            asked = _followed(asked, text)
        scores = self.model.scores(asked, state.rows(index_A))
        if "expand" in self.sums:
            total_A = objectives.log_likelihood(scores, asked, query.lengths_B + given)
            self.sums["expand"].append((-(total_A * asks_A).sum(), (text.lengths_B * asks_A).sum()))
        found_A = objectives.log_likelihood(scores, asked, given, query.lengths_B + given)
        if "query" in self.sums:
            self.sums["query"].append((-(found_A * asks_A).sum(), (query.lengths_B * asks_A).sum()))
        return torch.zeros_like(asks_M, dtype=found_A.dtype).index_put((index_A,), found_A)

    def _contrast(self, batch: dict[str, Tensor], states: list[MemoryState], scores_BT: Tensor) -> None:
        relevant_BT, lengths_BT = batch["relevant_BT"], batch["lengths_BT"]
        asks_BT = batch["query_lengths_BT"] > 0
        if bool((asks_BT & ~relevant_BT & (lengths_BT > 0)).any()):
            # The row's other segments are the candidates.
            self.sums["contrast"].append(objectives.contrast(scores_BT, relevant_BT & asks_BT, lengths_BT > 0))
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
            found_M = objectives.log_likelihood(self.model.scores(asked, every), asked, len(self.given))
            own_BB = torch.eye(n_rows, dtype=torch.bool, device=found_M.device)
            ids_BN, lengths_B = batch["ids_BTN"][:, t], lengths_BT[:, t]
            # Rows under the same document or paragraph have its segment in common: no wrong candidate for each other.
            same_BB = (ids_BN[:, None] == ids_BN[None]).all(-1) & (lengths_B[:, None] == lengths_B[None])
            candidate_BB = (lengths_B > 0)[None] & (own_BB | ~same_BB) & asks_BT[:, t, None]
            relevant_BB = own_BB & asks_BT[:, t, None]
            self.sums["contrast"].append(
                objectives.contrast(found_M.view(-1, n_rows), relevant_BB[index_A], candidate_BB[index_A])
            )

    def _after_template(self, query: Segments) -> Segments:
        given_BG = torch.tensor(self.given, dtype=torch.long, device=query.ids_BN.device).expand(len(query.ids_BN), -1)
        return Segments(torch.cat([given_BG, query.ids_BN], 1), query.lengths_B + len(self.given))


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
