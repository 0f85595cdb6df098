"""What is kept of a document that was compressed level by level: a memory of every node of its tree.

Shape legend: T records of a level, K virtual tokens, D width.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

from r3mem.errors import InputError
from r3mem.errors.given_paths import given_path
from r3mem.errors.whole_numbers import whole_number
from r3mem.memory.layout import check_version
from r3mem.memory.memory import UNNAMED, Memory
from r3mem.plain_data.by_content import ByContent
from r3mem.plain_data.seal import check_sealed
from r3mem.plain_data.tensor_file import read_whole, write_whole

#: Format 1 had no digest.
TREE_FORMAT = 2


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


@dataclass(eq=False, repr=False)
class TreeMemory(ByContent):
    """Memories of the nodes of one document's tree; the text itself is not in it.

    Attributes:
        nodes: The tree, parents before children.
        levels: For each level the memory of its nodes, one record a node, coarsest level first.
        title: What the document is called; may be empty.
    """

    nodes: list[TreeNode]
    levels: list[Memory] = field(repr=False)
    title: str = ""

    def __repr__(self) -> str:
        held = f"{len(self.nodes):,} nodes in {len(self.levels)} levels, {self.n_tokens:,} tokens"
        return f"TreeMemory({self.title[:40]!r}, {held} in {self.n_slots:,} virtual tokens, {self.nbytes:,} bytes)"

    @property
    def leaves(self) -> list[int]:
        """Nodes that no other node refines, in document order: together they hold the whole document."""
        return self.ends(None)

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

    def ends(self, level: int | None) -> list[int]:
        """Nodes where a way down to a level ends, in document order: those of the level, and leaves above it.

        Together they hold the whole document.

        Args:
            level: The level; None for the leaves.
        """
        parents, below, found = {node.parent for node in self.nodes}, set[int | None](), list[int]()
        for i, node in enumerate(self.nodes):
            if node.parent in below:
                below.add(i)
            elif node.level == level or i not in parents:
                found.append(i)
                below.add(i)
        return sorted(found, key=lambda i: self.nodes[i].start)

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
        write_whole(tensors, told, given_path(path, "the memory"))

    @classmethod
    def load(cls, path: str | Path) -> TreeMemory:
        """Read what :meth:`save` wrote.

        Warns where the file is of a format without digest.

        Raises:
            InputError: No such file, not a memory of a tree, or not as it was written.
            FingerprintError: The file is of another format version.
        """
        tensors, told = read_whole(given_path(path, "the memory"), "memory")
        if "tree_format" not in told:
            raise InputError(f"memory {path}: not a memory of a tree; if it is one of a plain text, use Memory.load")
        check_version(told["tree_format"], TREE_FORMAT, f"memory {path}, a tree,")
        check_sealed(told, told["tree_format"] != "1", f"memory {path}", UNNAMED)
        try:
            tree, abouts = json.loads(told["tree"]), json.loads(told["levels"])
            nodes, title = [TreeNode(*values) for values in tree["nodes"]], str(tree["title"])
            by_level = [dict(about) for about in abouts]
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise InputError(f"memory {path}: damaged, its tree cannot be read ({error}): retain it again") from error
        levels = []
        for level, about in enumerate(by_level):
            mark = f"{level}."
            parts = {name.removeprefix(mark): t for name, t in tensors.items() if name.startswith(mark)}
            levels.append(Memory.of_tensors(parts, about, f"{path}, level {level}"))
        memory = cls(nodes, levels, title)
        wrong = memory.fault()
        if wrong:
            raise InputError(f"memory {path}: damaged, {wrong}: retain the document again")
        return memory

    def fault(self) -> str | None:
        """Where nodes and the records of the levels contradict each other; None if nowhere."""
        filled = [0] * len(self.levels)
        for level, memory in enumerate(self.levels):
            wrong = memory.fault()
            if wrong:
                return f"level {level} is not whole: {wrong}"
        lengths = [memory.lengths_T.tolist() for memory in self.levels]
        for i, node in enumerate(self.nodes):
            whole = all(type(n) is int and n >= 0 for n in (node.start, node.end, node.level, node.record))
            if not whole or node.level >= len(self.levels) or node.record >= len(self.levels[node.level].digests):
                return f"node {i} has no record"
            if node.record != filled[node.level]:
                return f"node {i} has record {node.record} of its level, and {filled[node.level]} is its own"
            filled[node.level] += 1
            if node.end - node.start != lengths[node.level][node.record]:
                return f"node {i} is as long as {node.end - node.start} tokens, its record is not"
            if node.parent is None:
                continue
            if type(node.parent) is not int or not 0 <= node.parent < i:
                return f"node {i} has no parent before it"
            above = self.nodes[node.parent]
            if not (above.start <= node.start and node.end <= above.end and above.level < node.level):
                return f"node {i} does not lie in its parent"
        for level, (n_nodes, held) in enumerate(zip(filled, lengths, strict=True)):
            if n_nodes != len(held):
                return f"level {level} has {len(held)} records and {n_nodes} nodes"
        ends = [(self.nodes[i].start, self.nodes[i].end) for i in self.leaves]
        gap = next((start for (_, end), (start, _) in pairwise(ends) if end != start), None)
        return None if gap is None else f"its leaves do not meet at token {gap}"
