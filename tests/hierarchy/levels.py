"""Small levels without a spaCy model, for tests of hierarchies."""

from __future__ import annotations

from r3mem.hierarchy import (
    BlankLines,
    EntityFinder,
    EntityMentions,
    EntitySentences,
    KeySentence,
    Level,
    Structure,
    Title,
)

RULES = EntityFinder("rules", cache=False)


def small_levels(segment_tokens: int = 16) -> list[Level]:
    """Three levels; leaves of ``segment_tokens``, the levels above two and eight times as long."""
    sentences = EntitySentences(RULES)
    paragraphs = BlankLines(finer=sentences)
    return [
        Level("document", Structure(0, finer=paragraphs), 8 * segment_tokens, 8, Title(4)),
        Level("paragraph", paragraphs, 2 * segment_tokens, 4, KeySentence()),
        Level("entity", sentences, segment_tokens, None, EntityMentions()),
    ]
