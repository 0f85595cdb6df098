"""The store as HTTP and MCP call it: what needs the model one after another, what does not beside it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from r3mem.errors import FingerprintError, InputError, NotFound, RecallError
from r3mem.serve.gate import Gate
from r3mem.serve.limits import Limits
from r3mem.store import AsyncMemoryStore
from r3mem.store.indexing import FullText

logger = logging.getLogger(__name__)
Given_back = TypeVar("Given_back")


class Served:
    """A store that is served.

    Args:
        store: It, open.
        limits: How much is taken in at a time.
    """

    def __init__(self, store: AsyncMemoryStore, limits: Limits) -> None:
        self.store, self.limits = store, limits
        self.plain = Gate(limits.threads, limits.queue)
        self.model = Gate(1, limits.queue)
        self.uploads = Gate(limits.uploads, limits.queue)

    async def quick(self, call: Callable[[], Awaitable[Given_back]]) -> Given_back:
        """A call that needs no model.

        Args:
            call: Of the store.

        Raises:
            Busy: Too many wait.
        """
        return await self.plain.run(call)

    async def with_model(self, call: Callable[[], Awaitable[Given_back]]) -> Given_back:
        """A call that may need the model: one at a time.

        Args:
            call: Of the store.

        Raises:
            Busy: Too many wait.
        """
        return await self.model.run(call)

    async def found(
        self, query: str, k: int, text: bool, *, user: str, agent: str | None = None, session: str | None = None
    ) -> list[dict[str, Any]]:
        """Hits of a search as JSON holds them.

        Args:
            query: Words, or a question.
            k: Hits at most.
            text: Whether their texts are recalled too.
            user: Whose.
            agent: Only this agent's.
            session: Only of this session.

        Raises:
            Busy: Too many wait.
            InputError: The query is empty, or too many hits are asked for.
        """
        if k > self.limits.hits:
            raise InputError(f"k {k}: this server gives at most {self.limits.hits} hits")
        by_words = isinstance(self.store.store.policies.indexing, FullText)
        run = self.quick if by_words else self.with_model
        hits = await run(lambda: self.store.search(query, user=user, agent=agent, session=session, k=k))
        told = [hit.plain(text=False) for hit in hits]
        if not text:
            return told
        with_texts = []
        for each in told:
            try:
                each["text"] = await self.recalled(each["entry"]["id"], user=user)
            except NotFound:
                # Deleted since it was found.
                continue
            except (RecallError, FingerprintError) as error:
                # The others are whole.
                logger.error("entry %s", each["entry"]["id"], exc_info=error)
                each["text"], each["problem"] = None, "its text cannot be given back: see the log of the server"
            with_texts.append(each)
        return with_texts

    async def recalled(self, id: str, *, user: str, **part: Any) -> str:
        """The exact text of an entry, or of a part of it.

        Args:
            id: The entry.
            user: Whose.
            **part: As of :meth:`r3mem.store.MemoryStore.recall`.

        Raises:
            Busy: Too many wait.
            NotFound: The user has no such entry.
            RecallError: It cannot be given back.
        """
        return await self.with_model(lambda: self.store.recall(id, user=user, **part))
