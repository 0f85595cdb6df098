"""Sentences, packed so that every segment holds an entity mention where the text allows it."""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise

from r3mem.hierarchy.document import Document
from r3mem.hierarchy.entities import EntityFinder
from r3mem.hierarchy.segmenters.base import Segmenter

# What cuts cost, worst first. The weights are so far apart that no number of lesser faults outweighs a graver one, as
# in a comparison of tuples; integers of Python do not overflow.
TOO_LONG, MENTION_CUT, WORD_CUT, NO_MENTION, SENTENCE_CUT, CLAUSE_CUT, SEGMENT = (
    1 << bits for bits in (184, 160, 136, 112, 88, 64, 40)
)
# Squared lengths come last: of two ways to cut that are equally good otherwise, the more even one.

CLAUSE_ENDS = ",;:—–"
# Places tried in one segment's length of a sentence that is too long.
PLACES = 16


class EntitySentences(Segmenter):
    """Cuts between sentences into as few pieces without an entity mention as possible, and then as few as possible.

    A mention counts where it begins. Only a sentence that is too long is cut inside: after a clause if that will do,
    else between words, else between characters. A mention is cut in two only if it does not fit into one piece.

    Args:
        entities: Finds sentences and mentions. None makes one with its own defaults.
        cut_sentences: Whether sentences that would fit may be cut as well, where more pieces then hold a mention.
    """

    def __init__(self, entities: EntityFinder | None = None, cut_sentences: bool = False) -> None:
        self.entities = EntityFinder() if entities is None else entities
        self.cut_sentences = cut_sentences

    def cut(self, document: Document, start: int, end: int, tokens: int) -> list[int]:
        """See :meth:`Segmenter.cut`."""
        first, last = document.token_at(start), document.token_at(end)
        if last - first <= tokens:
            return []
        read = self.entities.read(document)
        mentions = [(document.token_at(m.start), document.token_from(m.end)) for m in read.mentions_in(start, end)]
        whole = _joined([(a, b) for a, b in mentions if b - a <= tokens])
        sentences = sorted({document.token_at(char) for char in read.sentences_in(start, end)} - {first, last})
        sentences = [token for token in sentences if first < token < last and not _inside(whole, token)]
        costs = {first: 0, **dict.fromkeys(sentences, 0), last: 0}
        for begin, stop in pairwise(sorted(costs)):
            if self.cut_sentences or stop - begin > tokens:
                costs.update(_places(document, begin, stop, tokens, whole))
        cuts = _best(costs, sorted(a for a, _ in mentions), tokens)
        return [document.char(token) for token in cuts]


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans, overlapping ones made one."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if joined and first < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return joined


def _inside(spans: list[tuple[int, int]], token: int) -> bool:
    """Whether a cut in front of a token goes through one of the spans."""
    i = bisect_left(spans, (token, token)) - 1
    return i >= 0 and spans[i][0] < token < spans[i][1]


def _places(document: Document, first: int, last: int, tokens: int, whole: list[tuple[int, int]]) -> dict[int, int]:
    """Places inside a sentence that is too long, with costs: the best of every few tokens, and all mentions' ends."""

    def cost(token: int) -> int:
        char = document.char(token)
        before, after = document.text[max(0, char - 2) : char], document.text[char]
        spaced = before[-1:].isspace() or after.isspace()
        clause = spaced and before.rstrip()[-1:] in CLAUSE_ENDS
        return SENTENCE_CUT + MENTION_CUT * _inside(whole, token) + WORD_CUT * (not spaced) + CLAUSE_CUT * (not clause)

    def allowed(token: int) -> bool:
        return first < token < last and token not in document.inside

    step = max(1, tokens // PLACES)
    places = {end for span in whole for end in span if allowed(end)}
    for begin in range(first + 1, last, step):
        some = [token for token in range(begin, min(begin + step, last)) if allowed(token)]
        if some:
            places.add(min(some, key=cost))
    return {token: cost(token) for token in places}


def _best(costs: dict[int, int], mentions: list[int], tokens: int) -> list[int]:
    """The cuts of least cost in all, by dynamic programming over the places; the first and last are no cuts."""
    places = sorted(costs)
    begun = [bisect_left(mentions, place) for place in places]
    least, came_from = [0], [0]
    for j in range(1, len(places)):
        i = min(bisect_left(places, places[j] - tokens), j - 1)
        options = []
        for k in range(i, j):
            length = places[j] - places[k]
            price = least[k] + SEGMENT + length * length + NO_MENTION * (begun[k] == begun[j])
            options.append((price + TOO_LONG * (length > tokens), k))
        price, k = min(options)
        least.append(price + costs[places[j]])
        came_from.append(k)
    cuts, j = [], len(places) - 1
    while came_from[j]:
        j = came_from[j]
        cuts.append(places[j])
    return cuts[::-1]
