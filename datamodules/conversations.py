"""Conversations as trees: sessions and turns for structure, questions with evidence for queries."""

from __future__ import annotations

from typing import Any

from datamodules.conversation_reader import ConversationReader
from datamodules.fields import ConversationFields
from datamodules.hierarchical import TreeDataModule


class ConversationsDataModule(TreeDataModule):
    """Conversations; a turn becomes ``Speaker: text``, a session begins with its date.

    Questions whose evidence lies in a node are queries of that node.

    Args:
        train: Source or sources (see ``datamodules/sources.py``): a file of JSON lines, a folder, a pattern.
        fields: Where things are in a record.
        options: The arguments of :class:`datamodules.hierarchical.TreeDataModule` and
            :class:`datamodules.pairs.PairDataModule`.
    """

    def __init__(self, train: str | list[str], fields: ConversationFields, **options: Any) -> None:
        super().__init__(train, **options)
        self.fields = fields

    def reader(self) -> tuple[ConversationReader, ConversationFields]:
        """See :meth:`TreeDataModule.reader`."""
        return ConversationReader(self.fields), self.fields
