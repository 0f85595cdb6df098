"""A store: documents of one source as columns on disk, with a report of how they were read.

::

    <column>.<type>.bin, <column>.offsets.npy    see ``ragged.py``; ids are uint16 if every id fits, else uint32
    digests.npy                                  uint64: hash of each document's text, which decides its split
    meta.json                                    report, and how long each column is
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from datamodules.atomic_folder import flush, folder_for, make_once
from datamodules.ragged import Ragged, RaggedWriter
from datamodules.sources import Source
from r3mem.errors import InputError
from r3mem.plain_data.seal import damaged_file, file_digests, is_whole, sealed
from r3mem.plain_data.text_ids import ids_of_texts

FORMAT_VERSION = 3
REPORT_SECONDS = 60.0
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


class DocumentStore(ABC):
    """What every store has.

    Args:
        folder: A complete store.
        reused: Whether it was there before this run. Then its files are compared with their digests, by one process of
            each machine.

    Raises:
        InputError: If its files do not agree with each other, or are not what was written.
    """

    #: Type of each column; None for the smallest that holds every id of the tokenizer.
    types: dict[str, Any]

    def __init__(self, folder: Path, reused: bool = True) -> None:
        self.folder = folder
        try:
            self.meta: dict[str, Any] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            if reused and _is_first_process():
                _check_files(folder, self.meta)
            self.report = StoreReport(**{**self.meta["report"], "reused": reused})
            self.columns = {name: Ragged(folder, name) for name in self.types}
            sizes = {name: [len(column), column.total] for name, column in self.columns.items()}
            if len(self.digests) != self.report.documents or sizes != self.meta["columns"]:
                raise ValueError("sizes disagree")
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"cache {folder} is damaged ({error}): delete that folder, it is made anew") from error

    @cached_property
    def digests(self) -> NDArray[np.uint64]:
        """Hash of each document's text."""
        digests: NDArray[np.uint64] = np.load(self.folder / "digests.npy", mmap_mode="r")
        return digests

    @abstractmethod
    def origin(self, number: int) -> str:
        """Where a document stood, for example ``books.jsonl:3``."""

    def __getstate__(self) -> dict[str, Any]:
        # A pickled memmap is a full copy of the file: loader workers map it themselves.
        return {name: value for name, value in self.__dict__.items() if name != "digests"}


class StoreWriter(ABC, Generic[MappedT]):
    """Reads a source one document at a time and writes what is kept of it.

    Args:
        source: Where the documents come from.
        tokenizer: Its ids are stored; no special tokens are added.
        max_documents: Stop after so many documents.
        tell: Takes a line of progress about once a minute.

    Attributes:
        left_out: How often what was left out, in words.
    """

    #: What is written.
    store: type[DocumentStore]
    #: Column of the documents' tokens, for the report.
    tokens_in: str

    def __init__(
        self,
        source: Source,
        tokenizer: PreTrainedTokenizerBase,
        max_documents: int | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.source, self.tokenizer, self.max_documents, self.tell = source, tokenizer, max_documents, tell
        self.left_out: Counter[str] = Counter()
        self._cut = False

    @abstractmethod
    def key(self) -> dict[str, Any]:
        """All that the content depends on beside tokenizer and ``max_documents``, as plain data."""

    @abstractmethod
    def read(self) -> Iterator[MappedT]:
        """The documents, one at a time, without those that are left out."""

    @abstractmethod
    def write(self, columns: dict[str, RaggedWriter], documents: Iterator[MappedT]) -> Iterator[int | None]:
        """Write documents; for each the digest of its text, or None if nothing of it was written."""

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
            InputError: If the source cannot be read, or nothing is left of it.
        """
        key = {
            "format": FORMAT_VERSION,
            "kind": type(self).__name__,
            "tokenizer": tokenizer_fingerprint(self.tokenizer),
            "max_documents": self.max_documents,
            **self.key(),
        }
        folder = folder_for(root, key)
        return folder, not make_once(folder, self._write)

    def ids(self, texts: list[str]) -> list[list[int]]:
        """Ids of texts; none of the tokenizer's special tokens are added, or made of strings in the texts."""
        return ids_of_texts(texts, self.tokenizer)

    def tokenise(self, texts: list[str], most: int, what: str) -> list[list[int]]:
        """Ids of texts, cut to a length; how many were longer is reported.

        Args:
            texts: The texts.
            most: Most tokens of one.
            what: What they are, in words.
        """
        if not texts:
            return []
        every = self.ids(texts)
        longer = sum(len(ids) > most for ids in every)
        if longer:
            self.left_out[f"ends of {what} longer than {most} tokens"] += longer
        return [ids[:most] for ids in every]

    def _write(self, folder: Path) -> None:
        began = time.monotonic()
        id_type = np.uint16 if max(self.tokenizer.get_vocab().values()) < 1 << 16 else np.uint32
        columns = {name: RaggedWriter(folder, name, dtype or id_type) for name, dtype in self.store.types.items()}
        with ExitStack() as files:
            for column in columns.values():
                files.enter_context(column.file)
            digests = self._fill(columns)
            for column in columns.values():
                column.close()
        with (folder / "digests.npy").open("wb") as file:
            np.save(file, np.array(digests, np.uint64))
            flush(file)
        cut_at = self.max_documents if self._cut else None
        seconds, tokens = time.monotonic() - began, columns[self.tokens_in].total
        report = StoreReport(len(digests), tokens, dict(self.left_out), cut_at, seconds, False)
        files = file_digests(folder)
        with (folder / "meta.json").open("wb") as file:
            sizes = {name: [len(column), column.total] for name, column in columns.items()}
            meta = {
                "source": self.source.spec,
                "report": asdict(report),
                "columns": sizes,
                "files": files,
                **self.meta(),
            }
            file.write(json.dumps(sealed(meta), indent=1).encode())
            flush(file)

    def _fill(self, columns: dict[str, RaggedWriter]) -> list[int]:
        """Write all documents; the digest of each."""
        told = time.monotonic()
        tokens = columns[self.tokens_in]
        digests = []
        for digest in self.write(columns, self._kept()):
            if digest is not None:
                digests.append(digest)
            if time.monotonic() - told > REPORT_SECONDS:
                told = time.monotonic()
                self.tell(f"{self.source.spec}: {len(digests):,} documents, {tokens.total:,} tokens so far")
        if not digests:
            why = ", ".join(f"{count} {what}" for what, count in self.left_out.items()) or "it holds no record"
            raise InputError(
                f"{self.source.spec}: nothing in it can be used ({why}); give another source, or correct fields or "
                "text_field"
            )
        return digests

    def _kept(self) -> Iterator[MappedT]:
        for count, mapped in enumerate(self.read()):
            if count == self.max_documents:
                self._cut = True
                return
            yield mapped


def _check_files(folder: Path, meta: dict[str, Any]) -> None:
    """Raise ValueError where a file is not what was written; earlier versions kept no digests."""
    if "files" in meta and not is_whole(meta):
        raise ValueError("meta.json does not match its digest")
    damaged = damaged_file(folder, meta.get("files", {}))
    if damaged is not None:
        raise ValueError(f"{damaged} does not match its digest")


def _is_first_process() -> bool:
    """Whether this is the first process of a run on its machine; the others read the same files."""
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "SLURM_LOCALID"))


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Digest of all that decides which ids a text gets."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        state = json.loads(backend.to_str())
        # Calls with padding or truncation leave these two behind; neither changes the ids asked for here.
        state.pop("truncation", None)
        state.pop("padding", None)
    else:
        state = [type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())]
    return hashlib.blake2b(json.dumps(state, sort_keys=True).encode(), digest_size=16).hexdigest()


def text_digest(text: str, origin: str) -> int:
    """Hash of a text, which decides the split it goes to.

    Args:
        text: The text.
        origin: Where it stood.

    Raises:
        InputError: If it is not Unicode text.
    """
    try:
        content = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{origin}: half of a surrogate pair at character {error.start}, which is not Unicode text; "
            "write the character out whole"
        ) from error
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
