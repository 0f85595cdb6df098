"""Compression of texts, segment by segment, many in step; see :meth:`r3mem.model.R3Mem.retain`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from r3mem.backbone.evaluation_mode import evaluating
from r3mem.errors import ConfigError, InputError
from r3mem.errors.given_texts import Text
from r3mem.memory import Memory, MemoryState, Segments, slots_needed
from r3mem.memory.quantise import Precision
from r3mem.model.open_record import last_records, reopened
from r3mem.model.progress import Progress
from r3mem.model.segment_model import SegmentModel
from r3mem.model.token_batches import token_batches

#: Where a segment begins in its text, and its token ids.
Cut = tuple[int, list[int]]


@torch.no_grad()
def retain_texts(
    model: SegmentModel, texts: Sequence[Text], memory: Memory | Sequence[Memory | None] | None, precision: Precision,
    records: str, batch_tokens: int,
) -> list[Memory]:  # fmt: skip
    """Compress texts, each with what comes before it; see :meth:`r3mem.model.R3Mem.retain`."""
    _check_records(model, records)
    with model.at_ratio(None):
        kept: list[list[Memory]] = []
        rows: list[list[int]] = []
        for text, earlier in zip(texts, _continued_from(model, memory, len(texts), precision), strict=True):
            closed, opened, tail = (None, [], []) if earlier is None else reopened(model, earlier)
            kept.append([] if closed is None else [closed])
            rows.append([*opened, *model.tokens(text, tail)])
        before = [parts[0] if parts else None for parts in kept]
        cut = _cut(model, rows)
        told = Progress("retain", sum(map(len, cut)), "segments")
        # What each text of a group remembers is held while they advance: so a group is no larger than a pass.
        for group in token_batches([_held(model, segments) for segments in cut], batch_tokens):
            mine, earlier_of = [cut[row] for row in group], [before[row] for row in group]
            for number, part in _records(model, mine, earlier_of, precision, batch_tokens, model.ratio):
                row = group[number]
                # Of the last records two are kept: an open one is written again with the one before it.
                kept[row] = [*kept[row], part] if records == "all" else [*kept[row], part][-2:]
                told.advance()
    made = [Memory.join(parts) for parts in kept]
    return made if records == "all" else [m.part(*last_records(model, m)) for m in made]


def records_of(
    model: SegmentModel, rows: Sequence[Sequence[int]], memories: Sequence[Memory | None] | None, precision: Precision,
    batch_tokens: int,
) -> Iterator[tuple[int, Memory]]:  # fmt: skip
    """The records of texts as they are made; see :meth:`r3mem.model.R3Mem.retain_stream`."""
    before = _continued_from(model, memories, len(rows), precision)
    return _records(model, _cut(model, rows), before, precision, batch_tokens, model.ratio)


def _check_records(model: SegmentModel, records: str) -> None:
    """Refuse what cannot be kept of a text's records.

    Args:
        model: The model.
        records: ``all`` or ``last``.

    Raises:
        ConfigError: Neither, or the compressor needs more than the last one.
    """
    if records not in ("all", "last"):
        raise ConfigError(f"records is 'all' or 'last', not {records!r}")
    if records == "last" and model.compressor.accumulates:
        raise ConfigError(f"{type(model.compressor).__name__} reads more than the last record: keep all of them")


def _continued_from(
    model: SegmentModel, memory: Memory | Sequence[Memory | None] | None, n_texts: int, precision: Precision
) -> list[Memory | None]:
    """What each text goes on from.

    Args:
        model: The model.
        memory: What was given: nothing, the memory of a single text, or one for each text.
        n_texts: How many texts there are.
        precision: How what follows is stored.

    Raises:
        InputError: It is no memory, there are not as many as texts, or it is stored in another precision.
        FingerprintError: Records of this model cannot follow it.
    """
    if memory is None:
        return [None] * n_texts
    if not isinstance(memory, Memory | list | tuple):
        raise InputError(f"a memory of a text is a Memory, not {type(memory).__name__}: retain gives one")
    before: list[Memory | None] = [memory] if isinstance(memory, Memory) else list(memory)
    if len(before) != n_texts:
        raise InputError(f"{n_texts} texts but {len(before)} memories; give one memory per text or none")
    for earlier in before:
        if earlier is not None:
            model.check_goes_on(earlier, precision)
    return before


def _cut(model: SegmentModel, rows: Sequence[Sequence[int]]) -> list[list[Cut]]:
    """The segments of texts.

    Raises:
        InputError: A text has none; the message says which.
    """
    empty = next((i for i, ids in enumerate(rows) if not ids), None)
    if empty is not None:
        raise InputError(f"text {empty} of {len(rows)} is empty: give at least one token to retain")
    documents = [model.document(ids) for ids in rows]
    trees = [model.hierarchy.build(document) for document in documents]
    return [
        [(node.start, document.ids[node.start : node.end]) for node in tree.leaves]
        for document, tree in zip(documents, trees, strict=True)
    ]


def _held(model: SegmentModel, segments: list[Cut]) -> int:
    """Positions of a text's largest pass: a segment, and all that is remembered of the text."""
    lengths = [len(ids) for _, ids in segments]
    remembered = sum(lengths) if model.compressor.accumulates else max(lengths)
    slots, held = slots_needed(remembered, model.ratio), model.compressor.state_slots
    return max(lengths) + (slots if held is None else min(slots, held))


def _slots(state: MemoryState | None) -> int:
    return 0 if state is None else state.slots_BKD.shape[1]


@torch.no_grad()
def _records(
    model: SegmentModel, cut: list[list[Cut]], memories: Sequence[Memory | None], precision: Precision,
    batch_tokens: int, ratio: int,
) -> Iterator[tuple[int, Memory]]:  # fmt: skip
    """Compress the segments of texts in step. Between two records the model is the caller's."""
    states = [None if m is None else model.state(m) for m in memories]
    begins = [0 if m is None else m.begins + m.n_tokens for m in memories]
    for t in range(max(map(len, cut))):
        active = [row for row, segments in enumerate(cut) if t < len(segments)]
        lengths = [len(cut[row][t][1]) + _slots(states[row]) for row in active]
        records: dict[int, Memory] = {}
        with model.at_ratio(ratio), evaluating(model):
            for batch in token_batches(lengths, batch_tokens):
                rows = [active[number] for number in batch]
                text = Segments.pad([cut[row][t][1] for row in rows], model.backbone.device)
                made = model.retain_segments(text, [states[row] for row in rows], precision)
                for row, (state, record) in zip(rows, made, strict=True):
                    states[row] = model.next_state(states[row], state)
                    records[row] = replace(record, begins=begins[row] + cut[row][t][0])
        for row in active:
            yield row, records[row]
