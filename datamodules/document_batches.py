"""Whole documents for prediction, each once over all processes.

Documents are taken in their order; a batch ends where the next one would make it too large. Batches are dealt out to
the ranks in turn, and every rank has as many: the last ones may be empty. With at most 1000 tokens and two ranks::

    document       0     1     2      3      4      5
    its tokens    300   500   100    900   1200    400
    batch        [------- 0 -----]  [ 1 ]  [ 2 ]  [ 3 ]
    rank                 0            1      0      1
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from r3mem.hierarchy import Document


class Documents:
    """Documents of a batch. Trainers look through lists for tensors, here token by token; this they pass on as it is.

    Args:
        documents: The documents.
    """

    def __init__(self, documents: Sequence[Document]) -> None:
        self._documents = list(documents)

    def __len__(self) -> int:
        return len(self._documents)

    def __iter__(self) -> Iterator[Document]:
        return iter(self._documents)


class DocumentBatch(TypedDict):
    """Some documents.

    Attributes:
        documents: The documents, whole.
        document_B: Number of each in its split, ``long``.
    """

    documents: Documents
    document_B: Tensor


class DocumentRows(Dataset[tuple[int, Document]]):
    """Reads documents by their numbers.

    Args:
        corpus: The documents.
    """

    def __init__(self, corpus: Sequence[Document]) -> None:
        self.corpus = corpus

    def __getitem__(self, document: int) -> tuple[int, Document]:
        return document, self.corpus[document]

    def collate(self, rows: list[tuple[int, Document]]) -> DocumentBatch:
        """One batch of documents."""
        return DocumentBatch(
            documents=Documents([document for _, document in rows]),
            document_B=torch.tensor([number for number, _ in rows], dtype=torch.long),
        )


class DocumentLoader:
    """Batches of documents, read when they are asked for.

    Not a subclass of torch's ``DataLoader``, for the reason that :class:`datamodules.resumable_loader.ResumableLoader`
    gives.

    Args:
        corpus: The documents.
        batches: Numbers of the documents of each batch.
        num_workers: Processes that read ahead; 0 reads in this one.
    """

    def __init__(self, corpus: Sequence[Document], batches: Sequence[Sequence[int]], num_workers: int = 0) -> None:
        self.rows, self.batches, self.num_workers = DocumentRows(corpus), batches, num_workers

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[DocumentBatch]:
        yield from DataLoader(
            self.rows,  # type: ignore[arg-type]
            batch_sampler=self.batches,  # type: ignore[arg-type]
            collate_fn=self.rows.collate,
            num_workers=self.num_workers,
            # Its own generator: the loader draws a seed for its workers, which must not shift what the model draws.
            generator=torch.Generator(),
        )


def document_batches(lengths: NDArray[np.int64], tokens: int, rank: int = 0, world_size: int = 1) -> list[range]:
    """Numbers of the documents of each of a rank's batches.

    Args:
        lengths: Tokens of each document.
        tokens: Most tokens of a batch; a longer document is a batch by itself.
        rank: This process among those that split the documents.
        world_size: How many there are.
    """
    ends = np.cumsum(lengths)
    batches: list[range] = []
    first = 0
    while first < len(ends):
        before = int(ends[first - 1]) if first else 0
        stop = max(first + 1, int(np.searchsorted(ends, before + tokens, side="right")))
        batches.append(range(first, stop))
        first = stop
    batches += [range(0)] * (-len(batches) % world_size)
    return batches[rank::world_size]
