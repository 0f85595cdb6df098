"""Files as a bad disk, a bad cable or a full quota leaves them."""

from __future__ import annotations

import random
from collections.abc import Iterator


def damaged(content: bytes, flips: int, seed: int = 0, first: int | None = None) -> Iterator[tuple[str, bytes]]:
    """A file's bytes with one fault each, and what the fault is: as many flipped bits as other bytes, a tenth of cuts.

    Args:
        content: The file as it was written.
        flips: How many bits are flipped.
        seed: Of what is drawn.
        first: Faults lie in the first so many bytes; None for anywhere.
    """
    draw, end = random.Random(seed), len(content) if first is None else first
    for _ in range(flips):
        at, bit = draw.randrange(end), draw.randrange(8)
        yield f"bit {bit} of byte {at}", changed(content, at, content[at] ^ 1 << bit)
    for _ in range(flips):
        at, byte = draw.randrange(end), draw.randrange(1, 256)
        yield f"byte {at}", changed(content, at, (content[at] + byte) % 256)
    for _ in range(max(1, flips // 10)):
        size = draw.randrange(end)
        yield f"cut to {size} bytes", content[:size]


def changed(content: bytes, at: int, byte: int) -> bytes:
    """The bytes with another one at a place."""
    return content[:at] + bytes([byte]) + content[at + 1 :]
