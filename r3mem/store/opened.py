"""A store that is open: its database, its model, its worker; and how it is closed."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Literal

from r3mem.store.policies import Policies

if TYPE_CHECKING:
    from typing_extensions import Self

    from r3mem.model import R3Mem

#: When texts are compressed: by a thread in the background, before `add` returns, or when `wait` is called.
Compress = Literal["background", "now", "later"]


class Opened:
    """See :class:`r3mem.store.MemoryStore`."""

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
            StoreError: The database is of a newer version, or cannot be reached.
            ConfigError: A setting that is not possible.
        """
        raise NotImplementedError

    def close(self) -> None:
        """End the worker after the text it is at, and close the connections. What is pending stays pending."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
