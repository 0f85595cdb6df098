"""Batches of segments, and a loader that can stop in mid-epoch and go on at the very next batch.

Shape legend: B rows, T segments a batch, N tokens a segment.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.segment_sampler import RowSpan, SegmentSampler
from datamodules.token_corpus import TokenCorpus
from r3mem.errors import ConfigError


class SegmentBatch(TypedDict):
    """T consecutive segments of each of B documents; a row goes on where the batch before stopped.

    Attributes:
        ids_BTN: Token ids, ``long``, padded on the right.
        lengths_BT: Tokens in each segment, ``long``; 0 where the document has ended.
        reset_B: ``bool``; True where the row begins a document (what it remembers must be dropped) or holds none.
        document_B: Number of the row's document in its split, ``long``; -1 for a row without one.
    """

    ids_BTN: Tensor
    lengths_BT: Tensor
    reset_B: Tensor
    document_B: Tensor


class SegmentRows(Dataset[tuple[RowSpan, Tensor]]):
    """Reads what one row of a batch holds.

    Args:
        corpus: The documents.
        segments: T.
        segment_tokens: N.
        pad_id: Stands beyond a segment's length.
    """

    def __init__(self, corpus: TokenCorpus, segments: int, segment_tokens: int, pad_id: int = 0) -> None:
        self.corpus, self.segments, self.segment_tokens, self.pad_id = corpus, segments, segment_tokens, pad_id

    def __getitem__(self, span: RowSpan) -> tuple[RowSpan, Tensor]:
        if span.document < 0:
            return span, torch.empty(0, dtype=torch.long)
        return span, torch.from_numpy(self.corpus.read(span.document, span.start, span.stop))

    def collate(self, rows: list[tuple[RowSpan, Tensor]]) -> SegmentBatch:
        """Lay the rows' tokens out in T segments of N."""
        n_rows = len(rows)
        flat_BM = torch.full((n_rows, self.segments * self.segment_tokens), self.pad_id, dtype=torch.long)
        for b, (_, ids) in enumerate(rows):
            flat_BM[b, : len(ids)] = ids
        tokens_B = torch.tensor([len(ids) for _, ids in rows])
        first_T = torch.arange(self.segments) * self.segment_tokens
        return SegmentBatch(
            ids_BTN=flat_BM.view(n_rows, self.segments, self.segment_tokens),
            lengths_BT=(tokens_B[:, None] - first_T).clamp(0, self.segment_tokens),
            reset_B=torch.tensor([span.reset for span, _ in rows]),
            document_B=torch.tensor([span.document for span, _ in rows]),
        )


class _From:
    """The batches of a sampler from some number on."""

    def __init__(self, sampler: SegmentSampler, first: int) -> None:
        self.sampler, self.first = sampler, first

    def __iter__(self) -> Iterator[list[RowSpan]]:
        return self.sampler.batches(self.first)

    def __len__(self) -> int:
        return len(self.sampler) - self.first


class SegmentLoader:
    """Batches in the sampler's order, with a state that Lightning puts into every checkpoint.

    Not a subclass of torch's ``DataLoader`` on purpose: Lightning rebuilds those with samplers of its own (for
    distributed runs, prediction and overfitting), which would undo the split over ranks and the order of the rows.

    Args:
        rows: Reads the rows.
        batch_sampler: Says what they hold.
        num_workers: Processes that read ahead; 0 reads in this one.
        pin_memory: Put batches into memory that a GPU copies from faster.
    """

    def __init__(
        self, rows: SegmentRows, batch_sampler: SegmentSampler, num_workers: int = 0, pin_memory: bool = False
    ) -> None:
        self.rows, self.batch_sampler = rows, batch_sampler
        self.num_workers, self.pin_memory = num_workers, pin_memory
        self._delivered = 0
        self._resume: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[SegmentBatch]:
        sampler, resume = self.batch_sampler, self._resume
        self._resume = None
        # The trainer asks for the iterator before it sets the epoch: look at the epoch only here, at the first batch.
        self._delivered = resume[1] if resume is not None and resume[0] == sampler.epoch else 0
        loader: DataLoader[Any] = DataLoader(
            self.rows,
            batch_sampler=_From(sampler, self._delivered),
            collate_fn=self.rows.collate,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            # Its own generator: the loader draws a seed for its workers, which must not shift the model's dropout.
            generator=torch.Generator().manual_seed(sampler.seed),
        )
        for batch in loader:
            # Counted here, in the process that trains: workers are ahead of what was delivered.
            self._delivered += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Epoch and batches delivered; the same on every rank."""
        return {
            "epoch": self.batch_sampler.epoch,
            "batches": self._delivered,
            "rows": self.batch_sampler.rows,
            "fingerprint": self.batch_sampler.fingerprint(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the last batch that was delivered when the state was taken.

        Args:
            state: What ``state_dict`` gave.

        Raises:
            ConfigError: If the batches would not be the ones that the stopped run had before it.
        """
        if state["rows"] != self.batch_sampler.rows:
            raise ConfigError(
                f"the checkpoint was made with {state['rows']} rows a step (batch_size times processes), now there are "
                f"{self.batch_sampler.rows}: set batch_size so that the product is the same, or start a new "
                "run from the weights"
            )
        if state["fingerprint"] != self.batch_sampler.fingerprint():
            raise ConfigError(
                "the checkpoint was made with other training documents, seed, mode or segment sizes: restore those "
                "settings to resume, or start a new run from the weights"
            )
        self.batch_sampler.set_epoch(state["epoch"])
        self._resume = (state["epoch"], state["batches"])
        self._delivered = state["batches"]
