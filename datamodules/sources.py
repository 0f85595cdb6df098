"""Where documents come from: files, folders, the Hugging Face hub, and the prose that every CPython carries.

A source is named by one string:

| string | documents |
|---|---|
| ``notes.txt``, ``notes.md``, ``model.py``, also ``.gz`` / ``.xz`` | the whole file; several with ``document_start`` |
| ``books.jsonl``, also ``.gz`` / ``.xz`` | one a line, by the rule of ``record_text.py`` |
| ``table.parquet`` | one a row, by the same rule |
| ``folder/`` or ``src/**/*.py`` | those of every file of a known kind in it, in the order of their paths |
| ``hf://name:config:split`` | one a row; ``name@revision`` pins a version; no config, and ``train``, if left out |
| ``stdlib:pydoc_data.topics`` | the topics of Python's language reference, one a document |

Documents are read one at a time; no source holds more than the document it is at.
"""

from __future__ import annotations

import glob
import hashlib
import importlib
import json
import os
import platform
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.record_text import RecordText
from datamodules.text_files import COMPRESSIONS, content_suffix, read_lines
from r3mem.errors import InputError
from r3mem.errors.extras import importing

TEXT_SUFFIXES = (".txt", ".md", ".rst", ".tex")
CODE_SUFFIXES = tuple(
    f".{language}"
    for language in (
        *(
            "py",
            "pyi",
            "c",
            "h",
            "cc",
            "cpp",
            "hpp",
            "cu",
            "cuh",
            "cs",
            "java",
            "kt",
            "scala",
            "js",
            "jsx",
            "ts",
            "tsx",
        ),
        *("go", "rs", "rb", "php", "swift", "jl", "lua", "sh", "sql"),
    )
)
RECORD_SUFFIXES = (".jsonl",)
TABLE_SUFFIXES = (".parquet",)
STDLIB_TEXTS = {"pydoc_data.topics": "topics"}
SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules"})


@dataclass(frozen=True)
class Document:
    """One text and where it stood (``books.jsonl:3``)."""

    text: str
    origin: str


@dataclass(frozen=True)
class Record:
    """What one document is made from.

    Attributes:
        value: A line of JSON or a row of a table, or the text itself.
        origin: Where it stood (``books.jsonl:3``).
        structured: Whether ``value`` has fields; False for the text of a file without any.
    """

    value: Any
    origin: str
    structured: bool = True


@dataclass(frozen=True)
class ReadingOptions:
    """How files become documents.

    Attributes:
        text_field: Dotted path(s) into a record; None for the rule of ``record_text.py``.
        separator: What joins the strings of one record.
        document_start: Regular expression; in plain text files a line that it matches begins a new document.
    """

    text_field: str | Sequence[str] | None = None
    separator: str = "\n\n"
    document_start: str | None = None

    def __post_init__(self) -> None:
        if self.document_start is not None:
            try:
                re.compile(self.document_start)
            except re.error as error:
                raise InputError(
                    f"document_start {self.document_start!r} is not a regular expression ({error}): correct it"
                ) from error


class Source(ABC):
    """Documents under one name.

    Attributes:
        spec: The string that named the source.
        ignored_files: Files of a folder that were passed over because their kind is unknown.
    """

    spec: str
    options: ReadingOptions
    ignored_files: int = 0

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What the documents depend on, as plain JSON data: if it is unchanged, so are they."""

    @abstractmethod
    def records(self) -> Iterator[Record]:
        """What the documents are made from, one at a time."""

    def content(self) -> dict[str, Any]:
        """Like :meth:`identity`, but of the content, wherever it lies: for what costs more than reading it all."""
        return self.identity()

    def documents(self) -> Iterator[Document]:
        """The documents, empty ones included, one at a time."""
        record_text = RecordText(self.options.text_field, self.options.separator)
        structured = False
        for record in self.records():
            structured |= record.structured
            yield Document(
                record_text(record.value, record.origin) if record.structured else record.value, record.origin
            )
        if structured:
            record_text.check_all_found(self.spec)


class FileSource(Source):
    """Files on disk.

    Args:
        spec: Name of the source.
        files: The files, in order.
        options: How they become documents.
        ignored_files: Files passed over on the way, for the report.
    """

    def __init__(self, spec: str, files: Sequence[Path], options: ReadingOptions, ignored_files: int = 0) -> None:
        self.spec, self.files, self.options, self.ignored_files = spec, list(files), options, ignored_files

    def identity(self) -> dict[str, Any]:
        # Size and time instead of contents: hashing would read a large corpus a second time on every start.
        stats = [(str(path.resolve()), path.stat()) for path in self.files]
        field = self.options.text_field
        return {
            "files": [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats],
            "text_field": field if field is None or isinstance(field, str) else list(field),
            "separator": self.options.separator,
            "document_start": self.options.document_start,
        }

    def content(self) -> dict[str, Any]:
        digest = hashlib.blake2b(digest_size=16)
        for path in self.files:
            # The name's end says how a file is read; its size keeps the bytes of two files apart.
            digest.update(f"{''.join(path.suffixes)} {path.stat().st_size} ".encode())
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        return {"bytes": digest.hexdigest(), "document_start": self.options.document_start}

    def records(self) -> Iterator[Record]:
        for path in self.files:
            suffix = content_suffix(path)
            if suffix in RECORD_SUFFIXES:
                yield from _json_lines(path)
            elif suffix in TABLE_SUFFIXES:
                yield from _rows(_load("parquet", data_files=str(path), split="train"), str(path))
            else:
                yield from _texts(path, self.options.document_start)


class HubSource(Source):
    """A data set of the Hugging Face hub, streamed.

    The version behind a name can change without notice: pin it with ``hf://name@revision:config:split``, or delete the
    stored tokens to read the newest.

    Args:
        spec: ``hf://name[@revision][:config[:split]]``.
        options: How rows become documents.
    """

    def __init__(self, spec: str, options: ReadingOptions) -> None:
        name, *rest = spec.removeprefix("hf://").split(":")
        if not name or len(rest) > 2:
            raise InputError(f"{spec}: write hf://name:config:split, for example hf://wikitext:wikitext-2-raw-v1:train")
        self.spec, self.options = spec, options
        self.name, _, self.revision = name.partition("@")
        self.config, self.split = (*rest, "", "")[:2]

    def identity(self) -> dict[str, Any]:
        field = self.options.text_field
        return {
            "hub": [self.name, self.revision, self.config, self.split or "train"],
            "text_field": field if field is None or isinstance(field, str) else list(field),
            "separator": self.options.separator,
        }

    def records(self) -> Iterator[Record]:
        rows = _load(self.name, name=self.config or None, split=self.split or "train", revision=self.revision or None)
        yield from _rows(rows, self.spec)


class StdlibSource(Source):
    """English prose that CPython carries, so that a machine without a network has text to train on.

    Args:
        spec: ``stdlib:pydoc_data.topics``.
    """

    def __init__(self, spec: str) -> None:
        self.spec, self.module, self.options = spec, spec.removeprefix("stdlib:"), ReadingOptions()
        if self.module not in STDLIB_TEXTS:
            raise InputError(f"{spec}: the standard library texts are stdlib:{', stdlib:'.join(STDLIB_TEXTS)}")

    def identity(self) -> dict[str, Any]:
        return {"stdlib": self.module, "python": platform.python_version()}

    def records(self) -> Iterator[Record]:
        try:
            texts: Mapping[str, str] = getattr(importlib.import_module(self.module), STDLIB_TEXTS[self.module])
        except ImportError as error:
            raise InputError(
                f"{self.spec}: this Python was built without it (some distributions leave it out); give a text "
                "file instead"
            ) from error
        for name in sorted(texts):
            yield Record(texts[name], f"{self.spec}#{name}", structured=False)


def open_source(spec: str, options: ReadingOptions | None = None) -> Source:
    """The source that a string names; see the table at the head of this file.

    Args:
        spec: A path, a folder, a glob, ``hf://...`` or ``stdlib:...``.
        options: How files and rows become documents.

    Raises:
        InputError: If nothing is there, or a file's kind is unknown.
    """
    options = options or ReadingOptions()
    if spec.startswith("hf://"):
        return HubSource(spec, options)
    if spec.startswith("stdlib:"):
        return StdlibSource(spec)
    path = Path(spec).expanduser()
    known = (*TEXT_SUFFIXES, *CODE_SUFFIXES, *RECORD_SUFFIXES, *TABLE_SUFFIXES)
    if path.is_file():
        packed_table = content_suffix(path) in TABLE_SUFFIXES and path.suffix.lower() in COMPRESSIONS
        if content_suffix(path) not in known or packed_table:
            raise InputError(
                f"{spec}: files ending in {path.suffix or 'nothing'} are not read; known are {' '.join(known)} "
                f"(all but .parquet also with {' or '.join(COMPRESSIONS)}). Rename or convert the file"
            )
        return FileSource(spec, [path], options)
    if path.is_dir():
        candidates = _walk(path)
    elif glob.has_magic(spec):
        candidates = sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file())
    else:
        raise InputError(f"{spec}: no such file or folder; paths are relative to {Path.cwd()}")
    files = [p for p in candidates if content_suffix(p) in known]
    if not files:
        raise InputError(
            f"{spec}: {len(candidates)} files there, none of a known kind ({' '.join(known)}); "
            "correct the path or pattern"
        )
    return FileSource(spec, files, options, ignored_files=len(candidates) - len(files))


def _walk(folder: Path) -> list[Path]:
    found: list[Path] = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in SKIPPED_FOLDERS)
        found.extend(Path(root, name) for name in names if not name.startswith("."))
    return sorted(found)


def _texts(path: Path, document_start: str | None) -> Iterator[Record]:
    if document_start is None:
        yield Record("".join(read_lines(path)), str(path), structured=False)
        return
    starts = re.compile(document_start)
    lines: list[str] = []
    first = 1
    for number, line in enumerate(read_lines(path), start=1):
        if lines and starts.search(line.rstrip("\r\n")):
            yield Record("".join(lines), f"{path}:{first}", structured=False)
            lines, first = [], number
        lines.append(line)
    yield Record("".join(lines), f"{path}:{first}", structured=False)


def _json_lines(path: Path) -> Iterator[Record]:
    # Not `datasets`' JSON reader: it forces one schema on all records and cannot say which byte is bad.
    for number, line in enumerate(read_lines(path), start=1):
        if number == 1:
            # Not part of JSON; in a plain text it is text.
            line = line.removeprefix("\ufeff")
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(
                f"{where} is not JSON ({error}): a .jsonl file holds one whole JSON value a line; correct the line, "
                "or name the file .txt to read it as plain text"
            ) from error
        yield Record(record, where)


def _load(builder: str, /, **options: Any) -> Any:
    # Importing it takes over a second, which plain files need not pay.
    with importing("datasets", f"reading {options.get('data_files', builder)}"):
        from datasets import load_dataset
        from datasets.exceptions import DatasetsError

    try:
        return load_dataset(builder, streaming=True, **options)
    except (OSError, ValueError, DatasetsError) as error:
        raise InputError(
            f"{options.get('data_files', builder)} could not be loaded ({type(error).__name__}: {error}); check the "
            "name, the config and the split, and that the hub can be reached"
        ) from error


def _rows(rows: Any, where: str) -> Iterator[Record]:
    from datasets.exceptions import DatasetsError

    number = 0
    iterator = iter(rows)
    while True:
        number += 1
        try:
            row = next(iterator)
        except StopIteration:
            return
        except (OSError, ValueError, DatasetsError) as error:
            raise InputError(
                f"{where}: row {number} could not be read ({type(error).__name__}: {error}); the file is damaged "
                "or the connection broke: copy or download it again"
            ) from error
        yield Record(row, f"{where}:{number}")
