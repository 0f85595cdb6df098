"""The last record of a memory that goes on: an open one is filled up before a new one begins.

How token ids were fed then does not matter. They are recalled, which is exact, and written again with what is new::

    records    | 256 | 256 | 88 |            a text of 600 tokens
    goes on    | 256 | 256 |                 what stays; its state is what the next record is compressed with
                           [ 88 ; new ]      what is written
"""

from __future__ import annotations

from r3mem.memory import Memory
from r3mem.model.segment_model import SegmentModel
from r3mem.plain_data.text_ids import joins


def reopened(model: SegmentModel, memory: Memory) -> tuple[Memory | None, list[int], list[int]]:
    """What stays of a memory that goes on, the tokens that are written again, and its last tokens.

    Args:
        model: The model.
        memory: The memory.

    Returns:
        ``(records that stay or None, ids to write again, last ids)``. The last ids are empty where the tokenizer does
        not need them.
    """
    n_records = len(memory.digests)
    # Without the record before it an open one cannot be written again.
    again = model.hierarchy.open(int(memory.lengths_T[-1])) and (n_records > 1 or memory.begins == 0)
    if not again:
        tail = [] if joins(model.backbone.tokenizer) else model.recall_ids(memory.part(-1))
        return memory, [], tail
    ids = model.recall_ids(memory.part(-1))
    return memory.part(0, n_records - 1) if n_records > 1 else None, ids, ids


def last_records(model: SegmentModel, memory: Memory) -> tuple[int, int]:
    """First and number of the records from which a text can be gone on with: the last, before an open one one more."""
    n_last = 2 if model.hierarchy.open(int(memory.lengths_T[-1])) and len(memory.digests) > 1 else 1
    return -n_last, n_last
