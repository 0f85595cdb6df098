"""Token ids of a source, made once and then read from disk without being loaded.

A cache is a folder, named by a digest of everything its tokens depend on::

    tokens.bin      all documents' ids, end to end: uint16 if every id fits, else uint32
    offsets.npy     int64, documents + 1: document d is tokens[offsets[d] : offsets[d + 1]]
    digests.npy     uint64: hash of each document's text, which decides its split
    origins.jsonl   one JSON string a document: where it stood
    meta.json       format, type, counts

A cache that exists is a whole one (``atomic_folder.py``).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from datamodules.atomic_folder import flush, folder_for, make_once
from datamodules.sources import Document, Source
from r3mem.cache import cache_folder
from r3mem.errors import InputError

FORMAT_VERSION = 1
# Bounds what the tokenizer holds at once: about a quarter of a million tokens with their offsets.
BATCH_CHARACTERS = 1 << 20
BATCH_DOCUMENTS = 1024
REPORT_SECONDS = 60.0


@dataclass(frozen=True)
class CacheReport:
    """What tokenising one source gave.

    Attributes:
        documents: Documents kept.
        tokens: Tokens of all of them.
        empty: Documents skipped because they hold no text.
        cut_at: ``max_documents`` if reading stopped there, else None.
        seconds: Time it took.
        reused: True if the cache was there already.
    """

    documents: int
    tokens: int
    empty: int
    cut_at: int | None
    seconds: float
    reused: bool

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / max(self.seconds, 1e-9)

    def __str__(self) -> str:
        text = f"{self.documents:,} documents, {self.tokens:,} tokens"
        text += " (cached)" if self.reused else f" ({self.tokens_per_second:,.0f} tokens/s)"
        if self.empty:
            text += f", {self.empty:,} empty documents skipped"
        if self.cut_at is not None:
            text += f", stopped at max_documents={self.cut_at:,}"
        return text


class TokenCache:
    """The tokens of one source, memory-mapped.

    Args:
        folder: A complete cache.
        reused: Whether it was there before this run, for the report.

    Raises:
        InputError: If the files do not agree with each other.
    """

    def __init__(self, folder: Path, reused: bool = True) -> None:
        self.folder = folder
        try:
            meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            self.dtype = np.dtype(meta["dtype"])
            self.report = CacheReport(**{**meta["report"], "reused": reused})
            size = (folder / "tokens.bin").stat().st_size
            whole = size == self.report.tokens * self.dtype.itemsize
            whole &= len(self.offsets) == len(self.digests) + 1 == self.report.documents + 1
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"token cache {folder} is damaged ({error}): delete that folder, it is made anew"
            ) from error
        if not whole:
            raise InputError(f"token cache {folder} is damaged (sizes disagree): delete that folder, it is made anew")

    @cached_property
    def _tokens(self) -> NDArray[Any]:
        return np.memmap(self.folder / "tokens.bin", dtype=self.dtype, mode="r")

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where each document begins, and where the last one ends."""
        offsets: NDArray[np.int64] = np.load(self.folder / "offsets.npy", mmap_mode="r")
        return offsets

    @cached_property
    def digests(self) -> NDArray[np.uint64]:
        """Hash of each document's text."""
        digests: NDArray[np.uint64] = np.load(self.folder / "digests.npy", mmap_mode="r")
        return digests

    @cached_property
    def origins(self) -> list[str]:
        """Where each document stood, for example ``books.jsonl:3``."""
        with (self.folder / "origins.jsonl").open(encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def read(self, document: int, start: int, stop: int) -> NDArray[np.int64]:
        """Ids ``start`` to ``stop`` of one document, as a fresh array."""
        begin = int(self.offsets[document])
        return np.array(self._tokens[begin + start : begin + stop], dtype=np.int64)

    def __getstate__(self) -> dict[str, Any]:
        # A pickled memmap is a full copy of the file: loader workers get the path and map it themselves.
        mapped = {"_tokens", "offsets", "digests", "origins"}
        return {name: value for name, value in self.__dict__.items() if name not in mapped}


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


def open_token_cache(
    source: Source,
    tokenizer: PreTrainedTokenizerBase,
    root: Path | None = None,
    max_documents: int | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> TokenCache:
    """The tokens of a source: from the cache if they are there, else tokenised now.

    Args:
        source: Where the documents come from.
        tokenizer: Its ids are stored; no special tokens are added.
        root: Folder that holds the caches; None for ``cache_folder("tokens")``.
        max_documents: Stop reading after so many documents that hold text.
        tell: Takes a line of progress about once a minute.

    Raises:
        InputError: If a document cannot be read, or no document holds text.
    """
    root = root or cache_folder("tokens")
    folder = folder_for(
        root,
        {
            "format": FORMAT_VERSION,
            "source": source.identity(),
            "tokenizer": tokenizer_fingerprint(tokenizer),
            "max_documents": max_documents,
        },
    )
    made = make_once(folder, lambda scratch: _write(source, tokenizer, scratch, max_documents, tell))
    return TokenCache(folder, reused=not made)


def _write(
    source: Source,
    tokenizer: PreTrainedTokenizerBase,
    scratch: Path,
    max_documents: int | None,
    tell: Callable[[str], None],
) -> None:
    dtype = np.dtype(np.uint16 if max(tokenizer.get_vocab().values()) < 1 << 16 else np.uint32)
    offsets, digests = [0], []
    kept = _Kept(source, max_documents)
    began = told = time.monotonic()
    with (scratch / "tokens.bin").open("wb") as tokens, (scratch / "origins.jsonl").open("wb") as origins:
        for batch in _batches(kept):
            for document, ids in zip(batch, _tokenise(tokenizer, batch, dtype), strict=True):
                if not len(ids):
                    kept.empty += 1
                    continue
                tokens.write(ids.tobytes())
                origins.write(json.dumps(document.origin).encode() + b"\n")
                offsets.append(offsets[-1] + len(ids))
                digests.append(text_digest(document.text, document.origin))
            if time.monotonic() - told > REPORT_SECONDS:
                told = time.monotonic()
                tell(f"{source.spec}: {len(digests):,} documents, {offsets[-1]:,} tokens so far")
        if not digests:
            raise InputError(
                f"{source.spec}: no document holds text ({kept.empty} empty ones); give another source or text_field"
            )
        flush(tokens)
        flush(origins)
    cut_at = max_documents if kept.cut else None
    report = CacheReport(len(digests), offsets[-1], kept.empty, cut_at, time.monotonic() - began, False)
    for name, values in (("offsets", np.array(offsets, np.int64)), ("digests", np.array(digests, np.uint64))):
        with (scratch / f"{name}.npy").open("wb") as file:
            np.save(file, values)
            flush(file)
    with (scratch / "meta.json").open("wb") as file:
        meta = {"format": FORMAT_VERSION, "source": source.spec, "dtype": dtype.name, "report": asdict(report)}
        file.write(json.dumps(meta, indent=1).encode())
        flush(file)


class _Kept:
    """The documents of a source that hold text, counting the others, up to a number of them."""

    def __init__(self, source: Source, max_documents: int | None) -> None:
        self.source, self.max_documents = source, max_documents
        self.empty, self.cut = 0, False

    def __iter__(self) -> Iterator[Document]:
        count = 0
        for document in self.source.documents():
            if not document.text.strip():
                self.empty += 1
            elif count == self.max_documents:
                self.cut = True
                return
            else:
                text_digest(document.text, document.origin)
                count += 1
                yield document


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


def _tokenise(
    tokenizer: PreTrainedTokenizerBase, documents: list[Document], dtype: np.dtype[Any]
) -> Iterator[NDArray[Any]]:
    """Ids of each document; one longer than a batch is tokenised in pieces that end after a line."""
    if all(len(document.text) <= BATCH_CHARACTERS for document in documents):
        for ids in _ids(tokenizer, [document.text for document in documents]):
            yield np.array(ids, dtype=dtype)
        return
    for document in documents:
        pieces = [np.array(_ids(tokenizer, [piece])[0], dtype=dtype) for piece in _pieces(document.text)]
        yield np.concatenate(pieces)


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    encoded = tokenizer(
        texts, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False, verbose=False
    )
    ids: list[list[int]] = encoded["input_ids"]
    return ids


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
