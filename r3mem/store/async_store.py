"""The same store for programs that must not wait: every verb in a thread, to be awaited."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from r3mem.store.store import MemoryStore

if TYPE_CHECKING:
    from typing_extensions import Self

Given = ParamSpec("Given")
Given_back = TypeVar("Given_back")


def _awaited(
    verb: Callable[Concatenate[MemoryStore, Given], Given_back],
) -> Callable[Concatenate[AsyncMemoryStore, Given], Awaitable[Given_back]]:
    @functools.wraps(verb)
    async def call(self: AsyncMemoryStore, /, *args: Given.args, **kwargs: Given.kwargs) -> Given_back:
        return await asyncio.to_thread(verb, self.store, *args, **kwargs)

    return call


class AsyncMemoryStore:
    """The verbs of :class:`MemoryStore`, awaitable; a call that is given up ends in its thread all the same.

    Args:
        store: An open store; closing this one closes it.
    """

    def __init__(self, store: MemoryStore) -> None:
        self.store = store

    @classmethod
    async def open(cls, url: str, **options: Any) -> Self:
        """As :meth:`MemoryStore.open`.

        Args:
            url: As there.
            **options: As there.
        """
        return cls(await asyncio.to_thread(MemoryStore.open, url, **options))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    add = _awaited(MemoryStore.add)
    add_pieces = _awaited(MemoryStore.add_pieces)
    add_file = _awaited(MemoryStore.add_file)
    update = _awaited(MemoryStore.update)
    delete = _awaited(MemoryStore.delete)
    delete_all = _awaited(MemoryStore.delete_all)
    consolidate = _awaited(MemoryStore.consolidate)
    forget = _awaited(MemoryStore.forget)
    get = _awaited(MemoryStore.get)
    list = _awaited(MemoryStore.list)
    search = _awaited(MemoryStore.search)
    recall = _awaited(MemoryStore.recall)
    memory = _awaited(MemoryStore.memory)
    history = _awaited(MemoryStore.history)
    stats = _awaited(MemoryStore.stats)
    unerased = _awaited(MemoryStore.unerased)
    wait = _awaited(MemoryStore.wait)
    check = _awaited(MemoryStore.check)
    reindex = _awaited(MemoryStore.reindex)
    export = _awaited(MemoryStore.export)
    import_ = _awaited(MemoryStore.import_)
    reembed = _awaited(MemoryStore.reembed)
    model = _awaited(MemoryStore.model)
    start = _awaited(MemoryStore.start)
    close = _awaited(MemoryStore.close)
