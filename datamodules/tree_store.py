"""Documents cut into trees, with a tokenised query list for every node: made once, then read from disk.

One row a document: ``ids``, ``starts``, ``inside`` (see :class:`r3mem.hierarchy.Document`), ``text`` (UTF-8), ``about``
(JSON: title, parts, mentions, questions), ``nodes`` (a line of `NODE` numbers a node), ``leaves`` (indices of nodes).
One row a query: ``queries``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from datamodules.fields import ConversationFields, DocumentFields
from datamodules.ragged import RaggedWriter
from datamodules.record_reader import MappedDocument, RecordReader
from datamodules.sources import Source
from datamodules.store import DocumentStore, StoreWriter, text_digest
from datamodules.tree_shape import TreeShape
from r3mem.hierarchy import Document, Hierarchy, Mention, Node, Part, Question, SegmentTree
from r3mem.plain_data.components import identity
from r3mem.plain_data.query_template import QueryTemplate

#: What is stored of a node: tokens start to end, level, parent (-1: none), first query and number of queries.
NODE = ("start", "end", "level", "parent", "first_query", "queries")


class StoredNode(NamedTuple):
    """One line of ``nodes``."""

    start: int
    end: int
    level: int
    parent: int
    first_query: int
    queries: int


class TreeStore(DocumentStore):
    """The trees of one source, memory-mapped; see :class:`DocumentStore`."""

    types = {"ids": None, "starts": np.uint32, "inside": np.uint32, "text": np.uint8, "about": np.uint8,
             "nodes": np.int64, "leaves": np.int64, "queries": None}  # fmt: skip

    def __init__(self, folder: Path, reused: bool = True) -> None:
        super().__init__(folder, reused)
        self.shape = TreeShape(**self.meta["shape"])
        self.ids, self.starts, self.inside, self.text, self.about, self.nodes, self.leaves, self.queries = (
            self.columns.values()
        )

    def node(self, document: int, index: int) -> StoredNode:
        """One node of a document's tree."""
        line = self.nodes[document][index * len(NODE) : (index + 1) * len(NODE)]
        return StoredNode(*line.tolist())

    def document(self, document: int) -> Document:
        """A whole document, as the hierarchy saw it."""
        about = self._about(document)
        mentions = about["mentions"]
        return Document(
            ids=self.ids[document].tolist(),
            text=self.text[document].tobytes().decode("utf-8"),
            starts=self.starts[document].tolist(),
            title=about["title"],
            parts=[Part(*part) for part in about["parts"]],
            mentions=None if mentions is None else [Mention(*mention) for mention in mentions],
            questions=tuple(
                Question(text, answer, tuple((a, b) for a, b in spans)) for text, answer, spans in about["questions"]
            ),
            name=about["name"],
            inside=frozenset(self.inside[document].tolist()),
        )

    def tree(self, document: int) -> SegmentTree:
        """The tree of a document."""
        mentions = self._about(document)["node_mentions"]
        nodes = [
            Node(
                start, end, level, None if parent < 0 else parent, tuple(Mention(*m) for m in mentions.get(str(i), ()))
            )
            for i, (start, end, level, parent, *_) in enumerate(self.nodes[document].reshape(-1, len(NODE)).tolist())
        ]
        return SegmentTree(self.document(document), nodes)

    def origin(self, document: int) -> str:
        """See :meth:`DocumentStore.origin`."""
        return str(self._about(document)["origin"])

    def _about(self, document: int) -> dict[str, Any]:
        about: dict[str, Any] = json.loads(self.about[document].tobytes())
        return about


class TreeWriter(StoreWriter[MappedDocument]):
    """Cuts documents into trees, one at a time.

    Args:
        source: Where the records come from.
        reader: A fresh reader of them.
        tokenizer: Its ids are stored.
        hierarchy: Cuts the documents and names their nodes.
        fields: The reader's mapping.
        query_tokens: Queries are cut to so many tokens.
        template: What they stand behind.
        options: The other arguments of :class:`StoreWriter`.
    """

    store = TreeStore
    tokens_in = "ids"

    def __init__(
        self,
        source: Source,
        reader: RecordReader[MappedDocument],
        tokenizer: PreTrainedTokenizerBase,
        hierarchy: Hierarchy,
        fields: DocumentFields | ConversationFields,
        query_tokens: int,
        template: QueryTemplate,
        **options: Any,
    ) -> None:
        super().__init__(source, tokenizer, **options)
        self.reader, self.left_out = reader, reader.left_out
        self.hierarchy, self.fields, self.query_tokens, self.template = hierarchy, fields, query_tokens, template
        self.shape = TreeShape(len(hierarchy.ratios))

    def key(self) -> dict[str, Any]:
        """See :meth:`StoreWriter.key`."""
        fields = [type(self.fields).__name__, asdict(self.fields)]
        return {
            "source": self.source.content(),
            "fields": fields,
            "hierarchy": identity(self.hierarchy),
            # Which entity model a hierarchy found on this machine is not among its arguments.
            "entities": getattr(getattr(self.hierarchy, "entities", None), "identity", None),
            "query_tokens": self.query_tokens,
            "before_query": self.template.placed(""),
        }

    def meta(self) -> dict[str, Any]:
        """See :meth:`StoreWriter.meta`."""
        return {"shape": asdict(self.shape)}

    def read(self) -> Iterator[MappedDocument]:
        """See :meth:`StoreWriter.read`."""
        return self.reader.read(self.source)

    def write(self, columns: dict[str, RaggedWriter], documents: Iterator[MappedDocument]) -> Iterator[int | None]:
        """See :meth:`StoreWriter.write`."""
        return (self._add(columns, mapped) for mapped in documents)

    def _add(self, columns: dict[str, RaggedWriter], mapped: MappedDocument) -> int | None:
        document = Document.of(
            mapped.text, self.tokenizer, mapped.title, mapped.parts, mapped.mentions, mapped.questions, mapped.name
        )
        if not document.ids:
            self.left_out["documents without tokens"] += 1
            return None
        tree = self.hierarchy.build(document)
        self.shape.take(tree, self.hierarchy)
        placed = self.template.placed
        queries = [self.hierarchy.queries(tree, i) for i in range(len(tree.nodes))]
        lines, first = [], len(columns["queries"])
        for node, names in zip(tree.nodes, queries, strict=True):
            lines.append([node.start, node.end, node.level, _number(node.parent), first, len(names)])
            first += len(names)
        parents = {node.parent for node in tree.nodes}
        leaves = sorted((i for i in range(len(lines)) if i not in parents), key=lambda i: lines[i][0])
        about = {
            "title": document.title,
            "name": document.name,
            "origin": mapped.origin,
            "parts": [[p.start, p.end, p.depth, p.title] for p in document.parts],
            "mentions": None if document.mentions is None else _plain(document.mentions),
            "questions": [[q.text, q.answer, q.spans] for q in document.questions],
            "node_mentions": {i: _plain(node.mentions) for i, node in enumerate(tree.nodes) if node.mentions},
        }
        columns["ids"].add(document.ids)
        columns["starts"].add(document.starts)
        columns["inside"].add(sorted(document.inside))
        columns["text"].add(document.text.encode("utf-8"))
        columns["about"].add(json.dumps(about, ensure_ascii=False).encode("utf-8"))
        columns["nodes"].add(np.array(lines, np.int64).ravel())
        columns["leaves"].add(leaves)
        for ids in self.tokenise([placed(query) for each in queries for query in each], self.query_tokens, "queries"):
            columns["queries"].add(ids)
        return text_digest(mapped.text, mapped.origin)


def _number(parent: int | None) -> int:
    return -1 if parent is None else parent


def _plain(mentions: Iterable[Mention]) -> list[list[Any]]:
    return [[mention.start, mention.end, mention.kind] for mention in mentions]
