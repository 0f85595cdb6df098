"""Documents as trees, for training on (segment, query) pairs at every level; whole documents for prediction."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from datamodules.document_batches import DocumentLoader, document_batches
from datamodules.document_reader import DocumentReader
from datamodules.fields import ConversationFields, DocumentFields
from datamodules.pairs import PairDataModule
from datamodules.record_reader import MappedDocument, RecordReader
from datamodules.run_parts import hierarchy_of, place_of
from datamodules.sources import Source
from datamodules.text_data import at_least_one
from datamodules.tree_rows import TreeCorpus, TreeRows
from datamodules.tree_store import TreeStore, TreeWriter
from r3mem.hierarchy import Hierarchy
from r3mem.model.run_contract import DataSide
from r3mem.plain_data.components import identity


class TreeDataModule(PairDataModule[TreeCorpus]):
    """Documents that a hierarchy cuts; a row is the path from the document level to one leaf.

    Prediction is given whole documents: the model cuts them with its own hierarchy and makes a ``TreeMemory`` of each.

    Args:
        train: Source or sources.
        hierarchy: Cuts the documents; None for that of the model being trained.
        segments_per_row: Where the hierarchy has one level, a row is so many consecutive segments.
        min_tokens: Shorter documents are left out (never in prediction); how many is reported.
        predict: Sources for prediction; None for every document of ``train``, before any split.
        predict_tokens: Most tokens of the documents that prediction compresses together; a longer one is compressed
            alone.
        shared: The arguments of :class:`datamodules.pairs.PairDataModule`.
    """

    def __init__(
        self,
        train: str | list[str],
        hierarchy: Hierarchy | None = None,
        segments_per_row: int = 2,
        min_tokens: int = 1,
        predict: str | list[str] | None = None,
        predict_tokens: int = 32_768,
        **shared: Any,
    ) -> None:
        super().__init__(train, **shared)
        at_least_one(segments_per_row=segments_per_row, min_tokens=min_tokens, predict_tokens=predict_tokens)
        self.hierarchy, self.segments_per_row, self.min_tokens = hierarchy, segments_per_row, min_tokens
        self.sources["predict"], self.predict_tokens = predict, predict_tokens

    @abstractmethod
    def reader(self) -> tuple[RecordReader[MappedDocument], DocumentFields | ConversationFields]:
        """A fresh reader of records, and its mapping."""

    def open_store(self, source: Source) -> TreeStore:
        """See :meth:`TextDataModule.open_store`."""
        self.hierarchy = hierarchy_of(self.hierarchy, self.model_side)
        reader, fields = self.reader()
        writer = TreeWriter(
            source,
            reader,
            self.resolve_tokenizer(),
            self.hierarchy,
            fields,
            self.query_tokens,
            self.resolve_template(),
            max_documents=self.max_documents,
            tell=rank_zero_info,
        )
        return TreeStore(*writer.make(self.cache_dir))

    def corpus(self, stores: list[TreeStore]) -> TreeCorpus:
        """See :meth:`TextDataModule.corpus`."""
        return TreeCorpus(stores)

    def data_side(self) -> DataSide:
        """See :meth:`HasDataSide.data_side`."""
        return DataSide(predicted=self._splits.get("predict"), predicts_trees=True)

    def predict_dataloader(self) -> DocumentLoader:
        """Every document once, in the order of the sources, over all processes together."""
        corpus = self.documents("predict")
        batches = document_batches(corpus.lengths, self.predict_tokens, *place_of(self.trainer))
        return DocumentLoader(corpus, batches, self.num_workers)

    def rows(self, corpus: TreeCorpus, training: bool) -> TreeRows:
        """See :meth:`PairDataModule.rows`."""
        return TreeRows(corpus, self.segments_per_row, self.pad_id)

    def settings(self) -> tuple[object, ...]:
        """See :meth:`PairDataModule.settings`."""
        return identity(self.hierarchy), self.segments_per_row, self.query_tokens


class HierarchyDataModule(TreeDataModule):
    """Documents such as books, papers and articles.

    Args:
        train: Source or sources (see ``datamodules/sources.py``): a file of JSON lines, a folder, a pattern.
        fields: Where things are in a record; None for the rule of ``record_text.py``, without parts or titles.
        options: The arguments of :class:`TreeDataModule` and :class:`datamodules.pairs.PairDataModule`.
    """

    def __init__(self, train: str | list[str], fields: DocumentFields | None = None, **options: Any) -> None:
        super().__init__(train, **options)
        self.fields = fields or DocumentFields()

    def reader(self) -> tuple[DocumentReader, DocumentFields]:
        """See :meth:`TreeDataModule.reader`."""
        return DocumentReader(self.fields), self.fields
