"""Pending texts to virtual tokens: taken from the queue with a lease, so that processes share the work.

::

    job is there, raw text is there          pending: recall gives the raw text
      | leased by a worker, who renews it; if he dies, it runs out and another takes the job
      v
    virtual tokens are written, recalled once and compared with the text
      | one transaction: blob in, raw text out, job gone
      v
    ready: recall gives the text from the virtual tokens
"""

from __future__ import annotations

import hashlib
import os
import platform
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, delete, func, insert, select, update

from r3mem.errors import R3MemError, StoreError
from r3mem.store.database import in_groups
from r3mem.store.parts import Parts
from r3mem.store.schema import blobs, contents, jobs, loose

if TYPE_CHECKING:
    from r3mem.store.memories import Record

SECOND = 1_000_000
#: How long a job belongs to a worker that says nothing, and how often he says something.
LEASE_SECONDS, RENEWAL_SECONDS = 30.0, 8.0
#: Texts that are compressed together, and their bytes at most.
BATCH, BATCH_BYTES = 8, 64_000
#: Tries before a text counts as failed, where the reason may pass.
ATTEMPTS = 3


@dataclass(frozen=True)
class Job:
    """A text to compress."""

    content: int
    owner: str
    text: str
    ratio: int | None


class Compressor:
    """Compresses what is pending.

    Args:
        parts: Of the store.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.worker = f"{platform.node()[:20]}-{os.getpid()}-{uuid.uuid4().hex[:8]}"

    def some(self, only: Sequence[int] | None = None) -> int:
        """Compress some of what is pending and nobody else is at; how many texts were taken.

        Args:
            only: Of these contents; None for any.

        Raises:
            InputError: There is no such model.
            ConfigError: What the model needs is not installed.
            StoreError: The database cannot be written.
        """
        taken = self._claim(only)
        if not taken:
            return 0
        from r3mem.store.memories import records

        try:
            model = self._parts.model.get()
        except BaseException:
            self._give_back(taken)
            raise
        for ratio in dict.fromkeys(job.ratio for job in taken):
            group = [job for job in taken if job.ratio == ratio]
            with self._renewing(group):
                try:
                    made: Sequence[Record | Exception] = records(model, [job.text for job in group], ratio)
                except (
                    Exception
                ) as error:  # Whatever the model raises, memory that runs out too: texts stay as they are.
                    made = [error] * len(group)
                for job, record in zip(group, made, strict=True):
                    self._finish(job, record)
        return len(taken)

    def pending(self) -> int:
        """How many texts wait, whoever is at them."""
        with self._parts.database.reading() as connection:
            return int(connection.execute(select(func.count()).select_from(jobs)).scalar() or 0)

    def _claim(self, only: Sequence[int] | None) -> list[Job]:
        now = self._parts.clock.now()
        free = select(jobs.c.content, contents.c.owner, contents.c.raw, contents.c.ratio, contents.c.bytes)
        free = free.join(contents, contents.c.n == jobs.c.content).where(jobs.c.until < now)
        if only is not None:
            free = free.where(jobs.c.content.in_(only))
        free = free.order_by(jobs.c.queued).limit(BATCH)
        with self._parts.database.reading() as connection:
            # Most of the time there is nothing to do, and nobody need be kept from writing to find that out.
            if connection.execute(free.with_only_columns(jobs.c.content).limit(1)).first() is None:
                return []
        taken, size = list[Job](), 0
        with self._parts.database.writing() as connection:
            for row in connection.execute(free.with_for_update(of=jobs, skip_locked=True)):
                size += row.bytes
                if taken and size > BATCH_BYTES:
                    break
                taken.append(Job(row.content, row.owner, bytes(row.raw).decode(), row.ratio))
            until = self._parts.clock.now() + int(LEASE_SECONDS * SECOND)
            for job in taken:
                connection.execute(
                    update(jobs).where(jobs.c.content == job.content).values(worker=self.worker, until=until)
                )
        return taken

    def _give_back(self, taken: Sequence[Job]) -> None:
        self._change(taken, worker=None, until=0)

    def _change(self, group: Sequence[Job], **values: Any) -> None:
        """Change jobs that are still this worker's; one that somebody is deleting now is passed over."""
        mine = jobs.c.content.in_([job.content for job in group]) & (jobs.c.worker == self.worker)
        with self._parts.database.writing() as connection:
            free = select(jobs.c.content).where(mine).with_for_update(skip_locked=True)
            numbers = connection.execute(free).scalars().all()
            connection.execute(update(jobs).where(jobs.c.content.in_(numbers)).values(**values))

    @contextmanager
    def _renewing(self, group: Sequence[Job]) -> Iterator[None]:
        over = threading.Event()

        def renew() -> None:
            while not over.wait(RENEWAL_SECONDS):
                with suppress(StoreError):
                    self._change(group, until=self._parts.clock.now() + int(LEASE_SECONDS * SECOND))

        thread = threading.Thread(target=renew, name="r3mem-lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _finish(self, job: Job, record: Record | Exception) -> None:
        if isinstance(record, Exception):
            self._failed(job, record)
            return
        place = self._write(record)
        with self._parts.database.writing(job.owner) as connection:
            if not self._still_mine(connection, job):
                # Deleted meanwhile, or another took it after our lease: what was made is left loose.
                return
            connection.execute(delete(blobs).where(blobs.c.content == job.content))
            connection.execute(
                insert(blobs).values(
                    content=job.content,
                    data=record.data if place is None else None,
                    place=place,
                    sha256=hashlib.sha256(record.data).hexdigest(),
                    bytes=len(record.data),
                )
            )
            values = {"state": "ready", "error": None, "tokens": record.tokens, "positions": record.positions}
            raw = {} if self._parts.keep_text else {"raw": None}
            connection.execute(
                update(contents)
                .where(contents.c.n == job.content)
                .values(**values, **raw, model=record.model, ratio=record.ratio if job.ratio else None)
            )
            connection.execute(delete(jobs).where(jobs.c.content == job.content))
            if place is not None:
                connection.execute(delete(loose).where(loose.c.place == place))

    def _still_mine(self, connection: Connection, job: Job) -> bool:
        mine = select(jobs.c.content).where(jobs.c.content == job.content, jobs.c.worker == self.worker)
        return connection.execute(mine.with_for_update()).first() is not None

    def _write(self, record: Record) -> str | None:
        """Where virtual tokens were written outside the database; None if they go inside."""
        if self._parts.blobs is None:
            return None
        place = self._parts.blobs.new_place()
        with self._parts.database.writing() as connection:
            connection.execute(insert(loose).values(place=place, since=self._parts.clock.now()))
        self._parts.blobs.write(place, record.data)
        return place

    def _failed(self, job: Job, error: Exception) -> None:
        # What a text or a model is not fit for stays so; memory that ran out may be there the next time.
        lasting = isinstance(error, R3MemError)
        told = f"{type(error).__name__}: {error}"[:500]
        with self._parts.database.writing(job.owner) as connection:
            row = connection.execute(select(jobs).where(jobs.c.content == job.content)).first()
            if row is None or row.worker != self.worker:
                return
            if not lasting and row.attempts + 1 < ATTEMPTS:
                again = update(jobs).where(jobs.c.content == job.content)
                connection.execute(again.values(worker=None, until=0, attempts=row.attempts + 1))
                return
            connection.execute(update(contents).where(contents.c.n == job.content).values(state="failed", error=told))
            connection.execute(delete(jobs).where(jobs.c.content == job.content))


def sweep(parts: Parts, older_than: float = 24 * 3600.0) -> list[str]:
    """Remove files outside the database that no memory has; names of those that cannot be removed.

    Args:
        parts: Of the store.
        older_than: Seconds since they were noted; younger ones may be on their way into a memory.
    """
    if parts.blobs is None:
        return []
    before = parts.clock.now() - int(older_than * SECOND)
    with parts.database.reading() as connection:
        due = select(loose.c.place).where(loose.c.since <= before).order_by(loose.c.place)
        places = connection.execute(due).scalars().all()
    gone = {place for place in places if parts.blobs.remove(place)}
    # The names of files that are gone are no loss, on a disk too full to take them out of the table.
    with suppress(StoreError):
        for group in in_groups(sorted(gone)):
            with parts.database.writing() as connection:
                connection.execute(delete(loose).where(loose.c.place.in_(group)))
    return [place for place in places if place not in gone]
