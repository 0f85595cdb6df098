"""What is kept of a document that was compressed level by level: a memory of every node of its tree.

Shape legend: T records of a level, K virtual tokens, D width.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from r3mem.errors import FingerprintError, InputError
from r3mem.memory import Memory, whole_number
from r3mem.tensor_file import read_whole, write_whole

TREE_FORMAT = 1


@dataclass(frozen=True)
class TreeNode:
    """Where a record stands in its document's tree.

    Attributes:
        start: First token of the segment in the document.
        end: One past its last token.
        level: 0 is the document level; deeper levels are finer.
        parent: Index of the node that this one refines; None at the top.
        record: Which record of its level's memory holds it.
    """

    start: int
    end: int
    level: int
    parent: int | None
    record: int


@dataclass
class TreeMemory:
    """Memories of the nodes of one document's tree; the text itself is not in it.

    Attributes:
        nodes: The tree, parents before children.
        levels: For each level the memory of its nodes, one record a node, coarsest level first.
        title: What the document is called; may be empty.
    """

    nodes: list[TreeNode]
    levels: list[Memory] = field(repr=False)
    title: str = ""

    @property
    def leaves(self) -> list[int]:
        """Nodes that no other node refines, in document order: together they hold the whole document."""
        parents = {node.parent for node in self.nodes}
        return sorted((i for i in range(len(self.nodes)) if i not in parents), key=lambda i: self.nodes[i].start)

    @property
    def n_tokens(self) -> int:
        """Text tokens of the document."""
        return sum(self.nodes[i].end - self.nodes[i].start for i in self.leaves)

    @property
    def n_slots(self) -> int:
        """Virtual tokens of all levels."""
        return sum(memory.n_slots for memory in self.levels)

    @property
    def nbytes(self) -> int:
        """Bytes of the memories of all levels."""
        return sum(memory.nbytes for memory in self.levels)

    def children(self, index: int | None) -> list[int]:
        """Nodes that refine a node; those of the top level for None.

        Args:
            index: The node.

        Raises:
            InputError: There is no such node.
        """
        if index is not None:
            self.node(index)
        return [i for i, node in enumerate(self.nodes) if node.parent == index]

    def node(self, index: int) -> TreeNode:
        """One node.

        Args:
            index: The node, from 0.

        Raises:
            InputError: There is no such node.
        """
        if not 0 <= whole_number(index, "node") < len(self.nodes):
            raise InputError(f"node {index} is not there: this tree has {len(self.nodes)}, 0 to {len(self.nodes) - 1}")
        return self.nodes[index]

    def memory(self, index: int) -> Memory:
        """The memory of one node.

        Args:
            index: The node.

        Raises:
            InputError: There is no such node.
        """
        node = self.node(index)
        return self.levels[node.level].part(node.record)

    def save(self, path: str | Path) -> None:
        """Write to one ``.safetensors`` file. The file appears whole or not at all.

        Raises:
            InputError: The disk is full, or nothing may be written there.
        """
        tensors, about = {}, []
        for level, memory in enumerate(self.levels):
            parts, told = memory.tensors()
            tensors.update({f"{level}.{name}": tensor for name, tensor in parts.items()})
            about.append(told)
        tree = {"nodes": [list(asdict(node).values()) for node in self.nodes], "title": self.title}
        told = {"tree_format": str(TREE_FORMAT), "tree": json.dumps(tree), "levels": json.dumps(about)}
        write_whole(tensors, told, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> TreeMemory:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: No such file, or not a memory of a tree.
            FingerprintError: The file is of another format version.
        """
        tensors, told = read_whole(Path(path), "memory")
        if "tree_format" not in told:
            raise InputError(f"memory {path}: not a memory of a tree; if it is one of a plain text, use Memory.load")
        if int(told["tree_format"]) != TREE_FORMAT:
            raise FingerprintError(
                f"memory {path} is of tree format {told['tree_format']}, this version reads format {TREE_FORMAT}: "
                "retain the document again, or use the version that wrote it"
            )
        levels = []
        for level, about in enumerate(json.loads(told["levels"])):
            mark = f"{level}."
            parts = {name.removeprefix(mark): t for name, t in tensors.items() if name.startswith(mark)}
            levels.append(Memory.of_tensors(parts, about, f"{path}, level {level}"))
        tree = json.loads(told["tree"])
        return cls([TreeNode(*values) for values in tree["nodes"]], levels, tree["title"])
