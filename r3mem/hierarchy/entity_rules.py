"""Entities without a model: capitalised words that are no sentence's first, and figures. A poor man's finder.

It tells people from places as little as from weekdays; docs/hierarchy.md has its figures.
"""

from __future__ import annotations

from typing import Any

from spacy.language import Language
from spacy.tokens import Span

VERSION = 1
"""Goes up with every change of what is found: what was kept of an earlier version is then not used."""

# Words that may stand inside a name: the Duke of York, Ludwig van Beethoven.
LINKS = frozenset({"of", "de", "la", "le", "du", "des", "van", "von", "der", "den", "da", "di"})
QUOTES = frozenset("\"'“‘«„`([")


def _is_name(word: Any) -> bool:
    return bool(word.text[0].isupper() and word.text not in ("I", "O", "Oh"))


def _is_figure(word: Any) -> bool:
    return any(char.isdigit() for char in word.text)


def _begins_sentence(doc: Any, i: int) -> bool:
    """Whether a word is capitalised for its place: the first of a sentence or behind an opening quotation mark."""
    while i > 0 and not doc[i].is_sent_start and not doc[i - 1].text[-1].isalnum():
        i -= 1
        if doc[i].text[-1] in QUOTES:
            return True
    return i == 0 or bool(doc[i].is_sent_start)


@Language.component("r3mem_entity_rules", assigns=["doc.ents"])
def entity_rules(doc: Any) -> Any:
    """Mark runs of capitalised words as NAME and runs of figures as NUMBER."""
    found: list[Any] = []
    i = 0
    while i < len(doc):
        kind = _is_name if _is_name(doc[i]) else _is_figure if _is_figure(doc[i]) else None
        if kind is None:
            i += 1
            continue
        end = i + 1
        while end < len(doc) and not doc[end].is_sent_start:
            linked = doc[end].text in LINKS and end + 1 < len(doc) and not doc[end + 1].is_sent_start
            if not kind(doc[end]) and not (kind is _is_name and linked and _is_name(doc[end + 1])):
                break
            end += 1
        first = i
        if kind is _is_name and _begins_sentence(doc, i) and (end - i == 1 or doc[i].is_stop):
            # "The King" leaves "King"; a lone capitalised first word may be any word.
            first += 1
        if first < end:
            found.append(Span(doc, first, end, label="NAME" if kind is _is_name else "NUMBER"))
        i = end
    doc.ents = found
    return doc
