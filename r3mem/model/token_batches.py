"""Rows of unequal length in batches of like length, each within its tokens."""

from __future__ import annotations

from collections.abc import Sequence

from r3mem.errors import ConfigError
from r3mem.errors.whole_numbers import whole_setting

#: Positions of a batch. More is no faster, and takes more memory.
BATCH_TOKENS = 8192


def token_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Numbers of the rows of each batch, the longest rows first.

    Args:
        lengths: Tokens of each row.
        batch_tokens: Most tokens of a batch, padding counted. A longer row stands alone.

    Raises:
        ConfigError: Less than one token.
    """
    if whole_setting(batch_tokens, "batch_tokens") < 1:
        raise ConfigError(f"batch_tokens {batch_tokens} is not possible: give at least 1 token a batch")
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > batch_tokens:
            batches.append([])
        batches[-1].append(row)
    return batches
