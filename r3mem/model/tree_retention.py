"""Compression of whole trees, level by level from the top, and recall of single nodes (docs/method.md, Refinement).

Shape legend: B batch, K virtual tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from r3mem.errors import InputError, RecallError
from r3mem.hierarchy import SegmentTree
from r3mem.memory import Memory, MemoryState, Segments, side_by_side
from r3mem.memory.quantise import Precision
from r3mem.memory.tree_memory import TreeMemory, TreeNode
from r3mem.model.progress import Progress
from r3mem.model.segment_model import SegmentModel
from r3mem.model.token_batches import BATCH_TOKENS, token_batches


def retain_trees(
    model: SegmentModel,
    trees: Sequence[SegmentTree],
    before: Sequence[TreeMemory | None],
    precision: Precision = "float16",
    batch_tokens: int = BATCH_TOKENS,
) -> list[TreeMemory]:
    """Compress documents that have been cut, all together.

    A node waits for the node whose memory it is compressed with (`Hierarchy.source`); those that wait for nothing
    any more are compressed in one batch.

    Args:
        model: The model; it is in evaluation mode and needs no gradients.
        trees: The documents' trees.
        before: What each document goes on from: its first top-level segment is compressed with the last one there.
        precision: How the virtual tokens are stored.
        batch_tokens: Most tokens of one batch, padding counted.
    """
    found: list[list[list[Memory]]] = [[[] for _ in model.hierarchy.ratios] for _ in trees]
    places: list[dict[int, int]] = [{} for _ in trees]
    states: dict[tuple[int, int], MemoryState] = {}
    told = Progress("retain_tree", sum(len(tree.nodes) for tree in trees), "nodes")
    for level, ratio in enumerate(model.hierarchy.ratios):
        with model.at_ratio(ratio):
            waiting = [(d, i) for d, tree in enumerate(trees) for i, n in enumerate(tree.nodes) if n.level == level]
            records: dict[tuple[int, int], Memory] = {}
            while waiting:
                ready, waiting = _ready(model, trees, waiting, level, records)
                rows = [trees[d].ids(trees[d].nodes[i]) for d, i in ready]
                for numbers in token_batches([len(row) for row in rows], batch_tokens):
                    batch = [ready[number] for number in numbers]
                    segments = Segments.pad([rows[number] for number in numbers], model.backbone.device)
                    sources = [_source(model, trees, before, states, d, i) for d, i in batch]
                    for at, (state, record) in zip(
                        batch, model.retain_segments(segments, sources, precision, level), strict=True
                    ):
                        # As `SegmentModel.state` gives it of the record: not more slots than a state may hold.
                        states[at] = model.next_state(None, state)
                        records[at] = replace(record, begins=trees[at[0]].nodes[at[1]].start)
                    told.advance(len(batch))
            for d, tree in enumerate(trees):
                for i, node in enumerate(tree.nodes):
                    if node.level == level:
                        places[d][i] = len(found[d][level])
                        found[d][level].append(records[d, i])
    return [
        TreeMemory(
            [TreeNode(n.start, n.end, n.level, n.parent, places[d][i]) for i, n in enumerate(tree.nodes)],
            [side_by_side(parts) for parts in found[d]],
            tree.document.title,
        )
        for d, tree in enumerate(trees)
    ]


def _ready(
    model: SegmentModel,
    trees: Sequence[SegmentTree],
    waiting: list[tuple[int, int]],
    level: int,
    records: dict[tuple[int, int], Memory],
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Nodes of a level that can be compressed now, and those that wait for one of them."""
    ready: list[tuple[int, int]] = []
    later: list[tuple[int, int]] = []
    for d, i in waiting:
        source = model.hierarchy.source(trees[d], i)
        held = source is None or trees[d].nodes[source].level < level or (d, source) in records
        (ready if held else later).append((d, i))
    return ready, later


def _source(
    model: SegmentModel,
    trees: Sequence[SegmentTree],
    before: Sequence[TreeMemory | None],
    states: dict[tuple[int, int], MemoryState],
    d: int,
    i: int,
) -> MemoryState | None:
    source = model.hierarchy.source(trees[d], i)
    if source is not None:
        return states[d, source]
    earlier = before[d]
    if earlier is None or i > 0 or trees[d].nodes[i].level > 0:
        return None
    return model.state(earlier.levels[0].part(-1))


def check_tree_goes_on(model: SegmentModel, memory: TreeMemory, precision: Precision) -> None:
    """Refuse to go on from what `R3Mem.retain` would refuse; the last record of the top level is read.

    Args:
        model: The model.
        memory: What a document is to go on from.
        precision: How that document is to be stored.

    Raises:
        FingerprintError: It was written by another model, or by other settings.
        InputError: It is stored in another precision, or was changed after it was written.
    """
    wrong = "it has no level" if not memory.levels else memory.fault()
    if wrong:
        raise InputError(f"a document cannot go on from this memory of a tree, {wrong}: load it again")
    with model.at_ratio(model.hierarchy.ratios[0]):
        model.check_goes_on(memory.levels[0], precision)


def check_tree(memory: TreeMemory) -> None:
    """Refuse a tree that is not that of its records.

    Raises:
        RecallError: Says where they contradict each other.
    """
    wrong = memory.fault()
    if wrong:
        raise RecallError(f"the memory was changed after it was written, {wrong}: load it again, or retain it again")


def recall_node(model: SegmentModel, memory: TreeMemory, index: int) -> list[int]:
    """Token ids of one node's segment; see :meth:`r3mem.model.R3Mem.recall`."""
    return model.recall_ids(memory.memory(index))


def recall_leaves(model: SegmentModel, memory: TreeMemory) -> list[int]:
    """Token ids of the whole document, from its leaves.

    Raises:
        RecallError: The tree is not that of the records.
    """
    check_tree(memory)
    leaves, ids = memory.leaves, {}
    for level in range(len(memory.levels)):
        mine = [i for i in leaves if memory.nodes[i].level == level]
        if mine:
            flat, at = model.recall_ids(side_by_side([memory.memory(i) for i in mine])), 0
            for i in mine:
                n_tokens = memory.nodes[i].end - memory.nodes[i].start
                ids[i], at = flat[at : at + n_tokens], at + n_tokens
    return [token for i in leaves for token in ids[i]]
