"""Old entries of one session, or of one day, become one memory of a higher ratio."""

from __future__ import annotations

from datetime import timedelta

from r3mem.errors import ConfigError
from r3mem.store.consolidation.base import Consolidation
from r3mem.store.entries import Entry
from r3mem.store.reports import Consolidated
from r3mem.store.shelf import Shelf

#: Longer ago is before the year 1 already.
MOST_DAYS = 700_000


class Merge(Consolidation):
    """Merges entries that are older than some days, and the oldest of those beyond a number; per session, else per day.

    The virtual tokens of the parts are replaced by fewer ones of the whole. Each part can be recalled as before, word
    for word; search finds the whole.

    Args:
        days: Entries older than this are merged; None for no limit of age.
        keep: So many entries stay as they are at most, the newest; None for no limit of number.
        ratio: Text tokens per virtual token of the whole.
        most_bytes: Bytes of text in one whole at most; more makes several.
        least: Fewer entries than this are not merged.

    Raises:
        ConfigError: A setting that is not possible.
    """

    def __init__(
        self, days: float | None = 30.0, keep: int | None = None, ratio: int = 16, most_bytes: int = 16_000,
        least: int = 2,
    ) -> None:  # fmt: skip
        if days is None and keep is None:
            raise ConfigError("Merge needs a limit: days, keep or both")
        if (
            (days is not None and not 0 <= days <= MOST_DAYS)
            or (keep is not None and keep < 0)
            or ratio < 1
            or most_bytes < 1
        ):
            raise ConfigError(f"Merge takes days from 0 to {MOST_DAYS:,}, keep from 0, ratio and most_bytes from 1")
        if least < 2:
            raise ConfigError(f"Merge with least {least}: two entries are the fewest that can be merged")
        self.days, self.keep, self.ratio, self.most_bytes, self.least = days, keep, ratio, most_bytes, least

    def run(self, shelf: Shelf) -> Consolidated:
        """See :class:`Consolidation`."""
        groups = dict[tuple[str | None, str | None, str], list[Entry]]()
        for entry in self._due(shelf):
            # Without a session those of one day belong together.
            day = entry.time.date().isoformat() if entry.session is None else ""
            groups.setdefault((entry.agent, entry.session, day), []).append(entry)
        made, merged = list[str](), 0
        for group in groups.values():
            for batch in self._batches(group):
                made.append(shelf.merge([entry.id for entry in batch], self.ratio))
                merged += len(batch)
        return Consolidated(merged, len(made), tuple(made))

    def _due(self, shelf: Shelf) -> list[Entry]:
        single = [e for e in shelf.entries() if e.level != "consolidated" and e.superseded_by is None]
        by_age = sorted(single, key=lambda e: (e.time, e.created))
        beyond = set() if self.keep is None else {e.id for e in by_age[: max(0, len(by_age) - self.keep)]}
        before = None if self.days is None else shelf.now() - timedelta(days=self.days)
        return [e for e in by_age if e.id in beyond or (before is not None and e.time < before)]

    def _batches(self, group: list[Entry]) -> list[list[Entry]]:
        batches, size = list[list[Entry]](), 0
        for entry in group:
            if not batches or size + entry.bytes > self.most_bytes:
                batches.append([])
                size = 0
            batches[-1].append(entry)
            size += entry.bytes
        return [batch for batch in batches if len(batch) >= self.least]
