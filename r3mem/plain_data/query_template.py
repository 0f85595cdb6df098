"""What stands between a memory and a query that is asked of it: the same in training and in search."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from r3mem.errors import ConfigError
from r3mem.plain_data.text_ids import text_ids

PLACE = "{query}"
TEMPLATE = "\nQuestion: {query}"


class QueryTemplate:
    """A text with a place for the query at its end.

    Its words are given, not scored, and let the query's first token be scored too. A space before the query belongs to
    the query's first word, as tokenizers of running text have it. Control strings in a query are text.

    Args:
        template: Ends with ``{query}``; with ``{query}`` alone nothing is given.

    Raises:
        ConfigError: ``{query}`` is not at its end, or there more than once.
    """

    def __init__(self, template: str = TEMPLATE) -> None:
        if not isinstance(template, str):
            raise ConfigError(f"template {template!r} is not possible: give a str that ends with {PLACE}")
        if not template.endswith(PLACE) or template.count(PLACE) != 1:
            raise ConfigError(
                f"template {template!r} must end with {PLACE} and hold it once: what followed the query would be scored"
            )
        self.template = template
        before = template.removesuffix(PLACE)
        self._head = before.rstrip(" ")
        self._space = before[len(self._head) :]

    def given(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """Token ids in front of a query; they may be none."""
        return text_ids(self._head, tokenizer)

    def placed(self, query: str) -> str:
        """A query as it stands behind the given words: with the space before it."""
        return self._space + query

    def scored(self, tokenizer: PreTrainedTokenizerBase, query: str) -> list[int]:
        """Token ids of a query where it stands."""
        return text_ids(self.placed(query), tokenizer)
