"""Batches of streams: the segments of each row one after the other, each read with the memory of those before it.

Shape legend: B rows, T segments of a row, N tokens of a segment, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_modules.batch_pass import BatchPass, Sums, add_terms
from lightning_modules.streams import at_segments, segments_of, whole_text
from lightning_modules.token_metrics import EvaluationMetrics
from r3mem.backbone.next_tokens import Scores
from r3mem.memory import MemoryState, Segments
from r3mem.model.state_thread import through_segments
from r3mem.objectives import Need, Reading, Span, StepContext, Term, forward_nll, needs_of, ready

SEGMENT = Need.MEMORY | Need.RECONSTRUCTION | Need.STREAMS | Need.SCORES | Need.TEACHER | Need.QUERY


class StreamPass(BatchPass):
    """Batches of T segments of each row; the memory goes on from segment to segment, and to the next batch."""

    places = (SEGMENT,)
    otherwise = "(context, query) pairs: use HierarchyDataModule, QuestionsDataModule or ConversationsDataModule"

    def sums(
        self, batch: dict[str, Tensor], terms: Sequence[Term], state: MemoryState | None = None
    ) -> tuple[Sums, MemoryState | None]:
        """See :meth:`BatchPass.sums`; the memory is cut from the graph after every ``bptt_segments``."""
        sums: Sums = {term.name: [] for term in terms}
        needs = needs_of(terms)
        teacher = self.teacher(batch) if Need.TEACHER in needs else []
        reads = bool(needs & (Need.SCORES | Need.TEACHER))

        def retain(t: int, text: Segments, before: MemoryState | None) -> MemoryState:
            nothing_B = torch.zeros_like(text.lengths_B, dtype=torch.bool)
            has_memory_B = nothing_B if before is None else before.lengths_B > 0
            # Once per batch and segment, not per token: with nothing remembered there is nothing to learn here.
            logits = reads and (bool(has_memory_B.any()) or (self.in_step and before is not None))
            own, found = self.replay(
                self.segment, text, before, has_memory_B, logits, teacher[t] if teacher else None, terms
            )
            for name, parts in found.items():
                sums[name].extend(parts)
            return own

        return sums, through_segments(self.model, segments_of(batch), retain, state, self.bptt_segments)

    def segment(
        self,
        text: Segments,
        state: MemoryState | None,
        has_memory_B: Tensor,
        logits: bool,
        teacher: Scores | None,
        terms: Sequence[Term],
    ) -> tuple[MemoryState, Sums]:
        """One segment's own memory and its terms: all that is computed of it, so that nothing else has to be kept."""
        step = self.model.step(text, state, logits, None)
        parts = self.own_parts(step, text)
        parts[Need.QUERY] = lambda: self._asked(text, step.state)
        if step.scores is not None:
            parts[Need.SCORES] = ready(Reading(step.scores, has_memory_B))
            if teacher is not None:
                parts[Need.TEACHER] = ready(teacher)
        sums: Sums = {term.name: [] for term in terms}
        add_terms(sums, terms, StepContext(parts, text))
        return step.state, sums

    @torch.no_grad()
    def teacher(self, batch: dict[str, Tensor]) -> list[Scores]:
        """Scores by the untouched backbone at every segment, reading all text of the batch before it."""
        with self.model.backbone.adapters_off(), self.model.backbone.head_apart():
            return at_segments(self.model.backbone(whole_text(batch)).scores, batch)

    def _asked(self, text: Segments, state: MemoryState) -> Span:
        """Each segment's lead as its query, behind the template and the segment's own memory."""
        given, query = self.template.given(self.model.backbone.tokenizer), self.model.hierarchy.query
        lengths = enumerate(text.lengths_B.tolist())
        rows = [given + query(text.ids_BN[b, :n].tolist()) if n else [] for b, n in lengths]
        asked = Segments.pad(rows, text.ids_BN.device)
        return Span(asked, self.model.scores(asked, state), len(given), asked.lengths_B, asked.lengths_B > 0)

    def measure(self, batch: dict[str, Tensor], metrics: EvaluationMetrics) -> dict[str, Metric]:
        """Likelihood given nothing, the memory and the full text; words recalled from the memory alone."""
        texts = segments_of(batch)
        full = at_segments(self.model.scores(whole_text(batch)), batch)

        def retain(t: int, text: Segments, before: MemoryState | None) -> MemoryState:
            rows_B = text.lengths_B > 1
            step = self.model.step(text, before, logits=before is not None)
            if before is not None and step.scores is not None:
                metrics.likelihood(
                    memory=forward_nll(step.scores, text, rows_B),
                    nothing=forward_nll(self.model.scores(text), text, rows_B),
                    full=forward_nll(full[t], text, rows_B),
                )
            read, _ = self.model.codec.read(step.state.slots_BKD, text.lengths_B, text.ids_BN.shape[1])
            metrics.words(read, text)
            return step.state

        through_segments(self.model, texts, retain)
        return metrics.named(len(texts) > 1)
