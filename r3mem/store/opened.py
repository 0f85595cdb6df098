"""A store that is open: its database, its model, its worker; and how it is closed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, get_args

from sqlalchemy import select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from r3mem.errors import ConfigError, InputError, StoreError
from r3mem.store.blobs import BlobPlace
from r3mem.store.compression import Compressor, sweep
from r3mem.store.database import Database, said
from r3mem.store.deleting import erase_what_is_left
from r3mem.store.migrations import migrate
from r3mem.store.models import ModelOnNeed
from r3mem.store.parts import Parts
from r3mem.store.policies import Policies
from r3mem.store.postgresql import Postgresql
from r3mem.store.schema import blobs as blobs_table
from r3mem.store.schema import contents, meta
from r3mem.store.sqlite import Sqlite
from r3mem.store.worker import Worker

if TYPE_CHECKING:
    from typing_extensions import Self

    from r3mem.model import R3Mem

#: When texts are compressed: by a thread in the background, before `add` returns, or when `wait` is called.
Compress = Literal["background", "now", "later"]
#: Files of virtual tokens that are looked for when a store is opened.
LOOKED_AT = 20


class Opened:
    """See :class:`r3mem.store.MemoryStore`.

    Attributes:
        policies: Its policies.
        compress: When texts are compressed.
    """

    def __init__(self, parts: Parts, policies: Policies, compress: Compress) -> None:
        self._parts, self.policies, self.compress = parts, policies, compress
        self._compressor = Compressor(parts)
        self._worker = Worker(parts) if compress == "background" else None
        self._closed = False

    @classmethod
    def open(
        cls, url: str, *, model: R3Mem | str | None = None, policies: Policies | None = None, blobs: str | None = None,
        keep_text: bool = False, compress: Compress = "background",
    ) -> Self:  # fmt: skip
        """Open a store, or make a new one.

        Args:
            url: ``sqlite:///FILE`` or a path; ``postgresql+psycopg://USER:PASSWORD@HOST/DATABASE``; ``sqlite://``
                for one that is gone when it is closed.
            model: What compresses and recalls; or its folder, hub id or ``r3mem:smollm2-135m``; None for the default.
                It is loaded when it is first needed: adding, listing and full-text search never need it.
            policies: None for the defaults.
            blobs: Where virtual tokens are kept: None for inside the database, else an fsspec URL such as
                ``file:///srv/memories`` or ``s3://bucket/memories``. A new store remembers it.
            keep_text: Whether raw texts are kept beside the virtual tokens: recall is quick then, and needs no model.
            compress: ``background``, ``now`` or ``later``.

        Raises:
            InputError: No such kind of database, or nothing may be written there.
            StoreError: The database is of a newer version, damaged, or cannot be reached; or ``blobs`` is None and
                nothing of what is kept outside is where the store says.
            ConfigError: A setting that is not possible.
        """
        if compress not in get_args(Compress):
            raise ConfigError(f"compress is one of {', '.join(get_args(Compress))}, not {compress!r}")
        if not (model is None or isinstance(model, str | os.PathLike) or hasattr(model, "retain")):
            raise ConfigError(f"model is an R3Mem or the name of one, not {type(model).__name__}")
        if policies is not None and not isinstance(policies, Policies):
            raise ConfigError(f"policies are Policies(...), not {type(policies).__name__}")
        database = database_of(url)
        try:
            migrate(database)
            parts = Parts(
                database,
                _blob_place(database, blobs),
                ModelOnNeed(os.fspath(model) if isinstance(model, os.PathLike) else model),
                keep_text,
            )
            erase_what_is_left(parts)
            sweep(parts)
        except BaseException:
            database.close()
            raise
        return cls(parts, policies or Policies(), compress)

    @property
    def url(self) -> str:
        """Where it is; no password in it."""
        return self._parts.database.name

    def model(self) -> R3Mem:
        """The model; loaded now if it was not yet.

        Raises:
            InputError: There is no such model.
        """
        return self._parts.model.get()

    @property
    def model_name(self) -> str:
        """The name under which `stats` counts this store's model; loads it."""
        from r3mem.store.memories import made_by

        return made_by(self.model())

    def start(self) -> None:
        """Begin to compress what is pending, as adding does: for a server that opens a store with work left."""
        self._parts_open()
        if self._worker is not None:
            self._worker.wake()

    def close(self) -> None:
        """End the worker after the texts it is at, and close the connections. What is pending stays pending."""
        if self._closed:
            return
        self._closed = True
        if self._worker is not None:
            self._worker.close()
        self._parts.database.close()

    def _parts_open(self) -> Parts:
        """What the verbs work with.

        Raises:
            StoreError: The store was closed.
        """
        if self._closed:
            raise StoreError("this store was closed: open it again")
        return self._parts

    def _compress_added(self, contents: list[int] | None = None) -> None:
        """What follows a change: the worker is told, or it is done here, for some contents or for all."""
        if self._worker is not None:
            self._worker.wake()
        elif self.compress == "now":
            while self._compressor.some(contents):
                pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def database_of(url: str) -> Database:
    """The database of a URL or of a path.

    Raises:
        InputError: None of either kind.
    """
    if not isinstance(url, str | os.PathLike) or not str(url):
        raise InputError(f"a store is at sqlite:///FILE, a path or a PostgreSQL URL, not {url!r:.60}")
    told = os.fspath(url)
    if "\0" in told:
        raise InputError(f"the path of the store holds a zero character ({told!r}): no file can have that name")
    if "://" not in told:
        return Sqlite(Path(told).expanduser())
    try:
        made = make_url(told)
    except ArgumentError as error:
        raise InputError(f"{told.partition('://')[0]}://...: no URL of a database: give sqlite:///FILE") from error
    kind = made.get_backend_name()
    if kind == "sqlite":
        return Sqlite(Path(made.database).expanduser() if made.database and made.database != ":memory:" else None)
    if kind in ("postgresql", "postgres"):
        return Postgresql(_psycopg(made))
    raise InputError(f"a store in {kind} is not possible: give sqlite:///FILE or postgresql+psycopg://HOST/DATABASE")


def _psycopg(url: URL) -> URL:
    return url.set(drivername="postgresql+psycopg")


def _blob_place(database: Database, url: str | None) -> BlobPlace | None:
    """Where virtual tokens are kept: as the store remembers it, as it is told where it is new."""
    with database.reading() as connection:
        kept = said(connection, "blobs")
        # Behind tokens that are inside a place is read slowly, and one row says whether they are.
        newest = select(blobs_table.c.place).order_by(blobs_table.c.content.desc()).limit(LOOKED_AT if kept else 1)
        places = [place for place in connection.execute(newest).scalars() if place is not None]
        new = connection.execute(select(contents.c.n).limit(1)).first() is None
    if (kept is None and not new) or (not kept and places):
        raise StoreError(
            f"{database.name} is damaged (r3mem_meta does not say where virtual tokens are): take an undamaged copy"
        )
    if url is None and kept and places:
        _look_there(database, kept, places)
    place = BlobPlace(url) if url is not None else BlobPlace(kept) if kept else None
    told = place.url if place else ""
    if kept is None:
        with database.writing() as connection:
            # Another process may have said it meanwhile.
            database.insert_new(connection, meta, [{"name": "blobs", "value": told}])
            kept = said(connection, "blobs")
    if kept != told:
        where = kept or "the database itself"
        raise StoreError(f"{database.name} keeps its virtual tokens in {where}, not in {told}: open it without blobs")
    return place


def _look_there(database: Database, url: str, places: Sequence[str]) -> None:
    """Refuse a place that has none of the newest virtual tokens: new ones would go where nobody looks for them.

    Raises:
        StoreError: Another place was meant, or it is not mounted.
    """
    try:
        place = BlobPlace(url, make=False)
        found = any(place.has(each) for each in places)
    except (InputError, ConfigError) as error:
        raise StoreError(f"{database.name} keeps its virtual tokens in {url}: {error}") from error
    if not found:
        raise StoreError(
            f"{database.name} keeps its virtual tokens in {url}, and none of the last {len(places)} is there: mount or "
            f"restore that place, or an undamaged copy of the store. To go on without them, open it with blobs={url!r}"
        )
