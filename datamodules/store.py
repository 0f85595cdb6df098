"""A store: documents of one source as columns on disk, with a report of how they were read.

::

    <column>.<type>.bin, <column>.offsets.npy    see ``ragged.py``
    digests.npy                                  uint64: hash of each document's text, which decides its split
    meta.json                                    report
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from datamodules.atomic_folder import flush, folder_for, make_once
from datamodules.ragged import RaggedWriter
from datamodules.record_reader import RecordReader
from datamodules.sources import Source
from datamodules.token_cache import REPORT_SECONDS, tokenizer_fingerprint
from r3mem.errors import InputError

FORMAT_VERSION = 1
MappedT = TypeVar("MappedT")


@dataclass(frozen=True)
class StoreReport:
    """What reading one source gave.

    Attributes:
        documents: Documents or questions kept.
        tokens: Tokens of all of them.
        left_out: How often what was left out, in words.
        cut_at: ``max_documents`` if reading stopped there, else None.
        seconds: Time it took.
        reused: True if the store was there already.
    """

    documents: int
    tokens: int
    left_out: dict[str, int]
    cut_at: int | None
    seconds: float
    reused: bool

    def __str__(self) -> str:
        text = f"{self.documents:,} documents, {self.tokens:,} tokens"
        text += " (cached)" if self.reused else f" ({self.tokens / max(self.seconds, 1e-9):,.0f} tokens/s)"
        if self.left_out:
            text += "; left out: " + ", ".join(f"{count:,} {what}" for what, count in sorted(self.left_out.items()))
        if self.cut_at is not None:
            text += f"; stopped at max_documents={self.cut_at:,}"
        return text


class DocumentStore:
    """What every store has.

    Args:
        folder: A complete store.
        reused: Whether it was there before this run, for the report.

    Raises:
        InputError: If its files do not agree with each other.
    """

    def __init__(self, folder: Path, reused: bool = True) -> None:
        self.folder = folder
        try:
            self.meta: dict[str, Any] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            self.report = StoreReport(**{**self.meta["report"], "reused": reused})
            whole = len(self.digests) == self.report.documents
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"cache {folder} is damaged ({error}): delete that folder, it is made anew") from error
        if not whole:
            raise InputError(f"cache {folder} is damaged (sizes disagree): delete that folder, it is made anew")

    @cached_property
    def digests(self) -> NDArray[np.uint64]:
        """Hash of each document's text."""
        digests: NDArray[np.uint64] = np.load(self.folder / "digests.npy", mmap_mode="r")
        return digests

    def __getstate__(self) -> dict[str, Any]:
        # A pickled memmap is a full copy of the file: loader workers map it themselves.
        return {name: value for name, value in self.__dict__.items() if name != "digests"}


class StoreWriter(ABC, Generic[MappedT]):
    """Reads the records of a source one at a time and writes what is kept of them.

    Args:
        source: Where the records come from.
        reader: A fresh reader of them.
        tokenizer: Its ids are stored; no special tokens are added.
        max_documents: Stop after so many documents.
        tell: Takes a line of progress about once a minute.
    """

    #: Column of the documents' tokens, for the report.
    tokens_in: str
    #: Type of each column; None for the smallest that holds every id of the tokenizer.
    columns: dict[str, Any]

    def __init__(
        self,
        source: Source,
        reader: RecordReader[MappedT],
        tokenizer: PreTrainedTokenizerBase,
        max_documents: int | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.source, self.reader, self.tokenizer = source, reader, tokenizer
        self.max_documents, self.tell, self.left_out = max_documents, tell, reader.left_out
        self._cut = False

    @abstractmethod
    def key(self) -> dict[str, Any]:
        """All that the content depends on beside source, tokenizer and ``max_documents``, as plain data."""

    @abstractmethod
    def add(self, columns: dict[str, RaggedWriter], mapped: MappedT) -> int | None:
        """Write one document; the digest of its text, or None if nothing was written."""

    def meta(self) -> dict[str, Any]:
        """Plain data to keep beside the report."""
        return {}

    def make(self, root: Path) -> tuple[Path, bool]:
        """Write the store unless it is there.

        Args:
            root: Folder that holds the stores.

        Returns:
            Its folder, and whether it was there already.

        Raises:
            InputError: If a record cannot be read, or nothing is left of all of them.
        """
        key = {
            "format": FORMAT_VERSION,
            "kind": type(self).__name__,
            "source": self.source.content(),
            "tokenizer": tokenizer_fingerprint(self.tokenizer),
            "max_documents": self.max_documents,
            **self.key(),
        }
        folder = folder_for(root, key)
        return folder, not make_once(folder, self._write)

    def tokenise(self, texts: list[str], most: int, what: str) -> list[list[int]]:
        """Ids of texts, cut to a length; how many were longer is reported.

        Args:
            texts: The texts.
            most: Most tokens of one.
            what: What they are, in words.
        """
        if not texts:
            return []
        every = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        longer = sum(len(ids) > most for ids in every)
        if longer:
            self.left_out[f"ends of {what} longer than {most} tokens"] += longer
        return [ids[:most] for ids in every]

    def _write(self, folder: Path) -> None:
        began = told = time.monotonic()
        id_type = np.uint16 if max(self.tokenizer.get_vocab().values()) < 1 << 16 else np.uint32
        columns = {name: RaggedWriter(folder, name, dtype or id_type) for name, dtype in self.columns.items()}
        digests = []
        for mapped in self._mapped():
            digest = self.add(columns, mapped)
            if digest is not None:
                digests.append(digest)
            if time.monotonic() - told > REPORT_SECONDS:
                told = time.monotonic()
                tokens = columns[self.tokens_in].total
                self.tell(f"{self.source.spec}: {len(digests):,} documents, {tokens:,} tokens so far")
        if not digests:
            why = ", ".join(f"{count} {what}" for what, count in self.left_out.items()) or "it holds no record"
            raise InputError(
                f"{self.source.spec}: nothing to learn from ({why}); give another source or correct fields"
            )
        for column in columns.values():
            column.close()
        with (folder / "digests.npy").open("wb") as file:
            np.save(file, np.array(digests, np.uint64))
            flush(file)
        cut_at = self.max_documents if self._cut else None
        seconds = time.monotonic() - began
        tokens = columns[self.tokens_in].total
        report = StoreReport(len(digests), tokens, dict(self.left_out), cut_at, seconds, False)
        with (folder / "meta.json").open("wb") as file:
            meta = {"source": self.source.spec, "report": asdict(report), **self.meta()}
            file.write(json.dumps(meta, indent=1).encode())
            flush(file)

    def _mapped(self) -> Iterator[MappedT]:
        count = 0
        for record in self.source.records():
            mapped = self.reader(record)
            if mapped is None:
                continue
            if count == self.max_documents:
                self._cut = True
                return
            count += 1
            yield mapped
