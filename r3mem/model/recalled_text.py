"""The text that recalled tokens spell: of a whole memory, of some of its records, of a node of a tree.

A record may begin or end inside a character, where the tokens of one are several. Whole memories are not touched by
that. Of a node the text is the slice of the document's that holds every character which begins in it or is finished by
it, so that the texts of a level join to the document; alone, such records have bytes and no text.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from r3mem.errors import InputError
from r3mem.memory import Memory
from r3mem.memory.tree_memory import TreeMemory
from r3mem.model.segment_model import SegmentModel
from r3mem.model.tree_retention import check_tree, recall_leaves, recall_node
from r3mem.plain_data.text_ids import decoded, text_bytes

BROKEN = "\ufffd"
# A character of UTF-8 has at most four bytes, and each token of it at least one.
BEFORE = 3


def text_of_memory(model: SegmentModel, memory: Memory) -> str:
    """See :meth:`r3mem.model.R3Mem.recall`."""
    tokenizer, ids = model.backbone.tokenizer, model.recall_ids(memory)
    text = decoded(ids, tokenizer, goes_on=memory.begins > 0)
    if BROKEN not in text:
        return text
    data = text_bytes(ids, tokenizer, goes_on=memory.begins > 0)
    try:
        # The replacement character may be the text's own.
        return text if data is None else data.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"these tokens are those that were retained, and they spell no text: a character is cut at byte "
            f"{error.start}. Recall the whole memory, or take recall_bytes or recall_ids"
        ) from error


def bytes_of_memory(model: SegmentModel, memory: Memory) -> bytes:
    """See :meth:`r3mem.model.R3Mem.recall_bytes`."""
    tokenizer, ids = model.backbone.tokenizer, model.recall_ids(memory)
    text = decoded(ids, tokenizer, goes_on=memory.begins > 0)
    if BROKEN not in text:
        return text.encode()
    data = text_bytes(ids, tokenizer, goes_on=memory.begins > 0)
    if data is None:
        raise InputError(f"{type(tokenizer).__name__} does not say which bytes its tokens spell: take recall_ids")
    return data


def text_of_tree(model: SegmentModel, memory: TreeMemory) -> str:
    """The whole document's text."""
    return decoded(recall_leaves(model, memory), model.backbone.tokenizer)


def text_of_node(model: SegmentModel, memory: TreeMemory, index: int) -> str:
    """One node's slice of the document's text; see the head of this file."""
    memory.node(index)
    check_tree(memory)
    ids = recall_node(model, memory, index)
    return _slice(model, memory, index, ids)


def texts_of_nodes(model: SegmentModel, memory: TreeMemory, nodes: Sequence[int]) -> list[str]:
    """The slices of several nodes, as :func:`text_of_node` gives each; every leaf is recalled once.

    Args:
        model: The model.
        memory: The tree.
        nodes: The nodes.
    """
    ids, first = recall_leaves(model, memory), memory.nodes[memory.leaves[0]].start
    texts = []
    for index in nodes:
        start, end = memory.node(index).start - first, memory.node(index).end - first
        texts.append(_slice(model, memory, index, ids[start:end], ids[max(0, start - BEFORE) : start]))
    return texts


def _slice(model: SegmentModel, memory: TreeMemory, index: int, ids: list[int], before: list[int] | None = None) -> str:
    """The text of a node's token ids; ``before`` are the last few in front of them, None to recall those if needed."""
    tokenizer, goes_on = model.backbone.tokenizer, memory.nodes[index].start > 0
    text = decoded(ids, tokenizer, goes_on=goes_on)
    if BROKEN not in text:
        return text
    lead = _tokens_before(model, memory, index) if before is None else before
    data = text_bytes(ids, tokenizer, goes_on=goes_on)
    if data is None:
        return text
    ahead = text_bytes(lead, tokenizer, goes_on=True) or b""
    if data[0] & 0xC0 == 0x80:
        # The character begins before the node: its bytes from the first on.
        data = ahead[max((i for i, byte in enumerate(ahead) if byte & 0xC0 != 0x80), default=0) :] + data
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError as error:
        raise InputError(
            f"the tokens of node {index} are those that were retained, and they spell no text: the document was given "
            "as token ids that spell none. Take recall_ids(tree.memory(node))"
        ) from error


def _tokens_before(model: SegmentModel, memory: TreeMemory, index: int) -> list[int]:
    """The last few tokens in front of a node, from the nodes of its level."""
    node, found = memory.node(index), list[int]()
    while len(found) < min(BEFORE, node.start):
        end = node.start - len(found)
        same = (i for i, n in enumerate(memory.nodes) if n.level == node.level and n.end == end)
        left = next(same, None)
        if left is None:
            break
        found = [*recall_node(model, memory, left), *found]
    return found[-BEFORE:]
