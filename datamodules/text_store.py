"""Token ids of plain documents: made once, then read from disk.

One row a document: ``ids``, ``origins`` (where it stood, as text).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.ragged import RaggedWriter
from datamodules.sources import Document
from datamodules.store import DocumentStore, StoreWriter, text_digest
from r3mem.plain_data.text_ids import TAIL, ids_going_on

# Bounds what the tokenizer holds at once: about a quarter of a million tokens with their offsets.
BATCH_CHARACTERS = 1 << 20
BATCH_DOCUMENTS = 1024


class TextStore(DocumentStore):
    """The tokens of one source, memory-mapped; see :class:`DocumentStore`."""

    types = {"ids": None, "origins": np.uint8}

    def __init__(self, folder: Path, reused: bool = True) -> None:
        super().__init__(folder, reused)
        self.ids, self.origins = self.columns.values()

    def read(self, document: int, start: int, stop: int) -> NDArray[np.int64]:
        """Ids ``start`` to ``stop`` of one document, as a fresh array."""
        return np.array(self.ids[document][start:stop], dtype=np.int64)

    def origin(self, document: int) -> str:
        """See :meth:`DocumentStore.origin`."""
        return self.origins[document].tobytes().decode("utf-8", "surrogateescape")


class TextWriter(StoreWriter[Document]):
    """Tokenises documents in batches; see :class:`StoreWriter`."""

    store = TextStore
    tokens_in = "ids"

    def key(self) -> dict[str, Any]:
        """See :meth:`StoreWriter.key`."""
        return {"source": self.source.identity()}

    def read(self) -> Iterator[Document]:
        """The documents that hold text, if only blanks."""
        for document in self.source.documents():
            if document.text:
                yield document
            else:
                self.left_out["empty documents"] += 1

    def write(self, columns: dict[str, RaggedWriter], documents: Iterator[Document]) -> Iterator[int | None]:
        """See :meth:`StoreWriter.write`."""
        ids_column, origins = columns["ids"], columns["origins"]
        for batch in _batches(documents):
            # Before the tokenizer, which would not say where a text stands that it cannot read.
            digests = [text_digest(document.text, document.origin) for document in batch]
            texts = [document.text for document in batch]
            for document, digest, ids in zip(batch, digests, self._ids(texts, ids_column.dtype), strict=True):
                if len(ids):
                    ids_column.add(ids)
                    origins.add(document.origin.encode("utf-8", "surrogateescape"))
                    yield digest
                else:
                    self.left_out["documents without tokens"] += 1
                    yield None

    def _ids(self, texts: list[str], dtype: np.dtype[Any]) -> Iterator[list[int] | NDArray[Any]]:
        """Ids of each text; one longer than a batch is tokenised in pieces that end after a line."""
        if all(len(text) <= BATCH_CHARACTERS for text in texts):
            yield from self.ids(texts)
            return
        for text in texts:
            parts: list[NDArray[Any]] = []
            for piece in _pieces(text):
                ids = ids_going_on(piece, self.tokenizer, parts[-1][-TAIL:].tolist()) if parts else self.ids([piece])[0]
                parts.append(np.array(ids, dtype=dtype))
            yield np.concatenate(parts)


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= BATCH_CHARACTERS or len(batch) >= BATCH_DOCUMENTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while len(text) - start > BATCH_CHARACTERS:
        # After the last line end, so that no word is cut; a text without line ends is cut after a space.
        stop = text.rfind("\n", start, start + BATCH_CHARACTERS) + 1
        if stop <= start:
            stop = text.rfind(" ", start + 1, start + BATCH_CHARACTERS)
        if stop <= start:
            stop = start + BATCH_CHARACTERS
        yield text[start:stop]
        start = stop
    yield text[start:]
