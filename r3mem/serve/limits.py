"""How much a server takes in at a time."""

from __future__ import annotations

from dataclasses import dataclass, fields

from r3mem.errors import ConfigError

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What a server takes in; what is beyond it is refused with a sentence that says so.

    Attributes:
        body_bytes: Bytes of a request that is no upload.
        upload_bytes: Bytes of an uploaded file, and what the form around it takes.
        upload_seconds: Seconds that an upload may take.
        uploads: Files that are uploaded at the same time.
        hits: Hits of a search.
        page: Entries of a page.
        threads: Calls of the store at the same time that need no model.
        queue: Requests that wait for such a call, and those that wait for the model: so many each.

    Raises:
        ConfigError: One is less than 1.
    """

    body_bytes: int = 4 * MIB
    upload_bytes: int = 64 * MIB
    upload_seconds: int = 300
    uploads: int = 4
    hits: int = 100
    page: int = 1_000
    threads: int = 8
    queue: int = 64

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{field.name} {value!r:.20}: give a whole number from 1 on")
