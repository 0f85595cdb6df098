"""How many of a document's entities survive in a text, and how many segments hold any."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from r3mem.errors import InputError


class EntityRecall(Metric):
    """Share of gold entity mentions whose words appear in a recalled or generated text.

    Both are compared without regard to case and to the kind and number of white space. A mention must appear as whole
    words: "Ann" is not found in "Annual". Every mention counts, so one that the gold list repeats weighs as often, and
    is found in each as soon as the text holds it once. Writing without spaces between words (Chinese, Japanese) has no
    whole words in this sense; there a mention is found only where something else than a letter stands around it.
    """

    full_state_update = False
    higher_is_better = True
    found: Tensor
    mentions: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("found", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("mentions", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, texts: Sequence[str], mentions: Sequence[Sequence[str]]) -> None:
        """Add texts.

        Args:
            texts: What came back.
            mentions: For each text, the mentions that should be in it; blank ones do not count.

        Raises:
            InputError: There are more or fewer lists of mentions than texts.
        """
        if isinstance(texts, str) or len(texts) != len(mentions):
            raise InputError(f"{len(mentions)} lists of mentions for {len(texts)} texts: give a list for each text")
        for text, gold in zip(texts, mentions, strict=True):
            folded = _folded(text)
            wanted = [mention for mention in map(_folded, gold) if mention]
            present = {mention: _as_words(mention).search(folded) is not None for mention in set(wanted)}
            self.found += sum(present[mention] for mention in wanted)
            self.mentions += len(wanted)

    def compute(self) -> Tensor:
        """The share; NaN before any mention."""
        return self.found.float() / self.mentions if self.mentions else torch.tensor(math.nan)


class EntityCoverage(Metric):
    """Share of segments that hold at least one entity mention."""

    full_state_update = False
    higher_is_better = True
    covered: Tensor
    segments: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("covered", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("segments", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, mentions: Sequence[Sequence[Any]]) -> None:
        """Add segments.

        Args:
            mentions: The mentions of each segment, such as ``[node.mentions for node in tree.leaves]``.
        """
        self.covered += sum(1 for held in mentions if len(held) > 0)
        self.segments += len(mentions)

    def compute(self) -> Tensor:
        """The share; NaN before any segment."""
        return self.covered.float() / self.segments if self.segments else torch.tensor(math.nan)


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _as_words(mention: str) -> re.Pattern[str]:
    """Matches a mention that no letter or digit continues; a mention's own edge of another kind needs no border."""
    before = r"(?<!\w)" if re.match(r"\w", mention) else ""
    after = r"(?!\w)" if re.search(r"\w\Z", mention) else ""
    return re.compile(before + re.escape(mention) + after)
