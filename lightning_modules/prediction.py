"""Memories of what a predicted batch holds: segments of streams, or whole documents level by level.

Shape legend: B rows, T segments of a batch, N text tokens.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from r3mem.memory import Memory
from r3mem.memory.tree_memory import TreeMemory
from r3mem.model import R3Mem

Predicted = list[tuple[int, Memory | TreeMemory]]


class Prediction:
    """Compresses batch after batch.

    Args:
        model: The model.
    """

    def __init__(self, model: R3Mem) -> None:
        self.model = model
        # Of each row what the next batch goes on from: its last record, or all where a compressor accumulates.
        self._goes_on: dict[int, list[Memory]] = {}

    def of(self, batch: dict[str, Any], first: bool, finished: Container[int]) -> Predicted:
        """``(document, memory)`` of all that a batch holds.

        Args:
            batch: A ``SegmentBatch``, of which every segment becomes a record; or a ``DocumentBatch``, of which every
                document becomes a :class:`TreeMemory`.
            first: Whether it is the first batch of a run.
            finished: Documents that are left out.
        """
        if first:
            self._goes_on = {}
        return self._trees(batch, finished) if "documents" in batch else self._records(batch, finished)

    def _trees(self, batch: dict[str, Any], finished: Container[int]) -> Predicted:
        pairs = zip(batch["document_B"].tolist(), batch["documents"], strict=True)
        wanted = {number: document for number, document in pairs if number not in finished}
        if not wanted:
            return []
        return list(zip(wanted, self.model.retain_tree(list(wanted.values())), strict=True))

    def _records(self, batch: dict[str, Any], finished: Container[int]) -> Predicted:
        lengths_BT = batch["lengths_BT"].tolist()
        fresh: dict[int, list[int]] = {}
        going_on: dict[int, list[int]] = {}
        documents = batch["document_B"].tolist()
        for b, document in enumerate(documents):
            ids = [i for t, n in enumerate(lengths_BT[b]) for i in batch["ids_BTN"][b, t, :n].tolist()]
            if document >= 0 and ids and document not in finished:
                (fresh if bool(batch["reset_B"][b]) else going_on)[b] = ids
        out: Predicted = []
        earlier = [Memory.join(self._goes_on[b]) for b in going_on]
        self._goes_on |= {b: [] for b in fresh}
        for texts, before in ((fresh, None), (going_on, earlier)):
            rows = list(texts)
            for i, record in self.model.retain_stream(list(texts.values()), before) if rows else ():
                kept = self._goes_on[rows[i]]
                if not self.model.compressor.accumulates:
                    kept.clear()
                kept.append(record)
                out.append((documents[rows[i]], record))
        return out
