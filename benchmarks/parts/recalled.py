"""Segments retained and recalled: how many come back, and what their corrections cost.

Shape legend: B batch, N text tokens, K virtual tokens, D width.
"""

from __future__ import annotations

import copy
import math
import time
from typing import Any

import torch

from r3mem import R3Mem


def recall_row(model: R3Mem, text: str, rows: list[list[int]], precision: Any, batch: int = 16) -> dict[str, Any]:
    """Retain every segment, forget the text, recall it: with and without the corrections."""
    exact = corrected = right = bits = slot_bits = 0
    began = time.perf_counter()
    for i in range(0, len(rows), batch):
        part = rows[i : i + batch]
        memories = model.retain(part, precision=precision)
        for ids, memory in zip(part, memories, strict=True):
            bare = copy.copy(memory)
            bare.corrections = [b""] * len(memory.corrections)
            lengths_T = bare.lengths_T.to(model.backbone.device)
            words, _ = model.codec.read(model.state(bare).slots_BKD, lengths_T, len(ids))
            wrong = int((words.ids_BN[0].cpu() != torch.tensor(ids)).sum())
            exact += wrong == 0
            right += len(ids) - wrong
            corrected += model.recall_ids(memory) == ids
            bits += memory.correction_bits
            slot_bits += 8 * memory.nbytes
    tokens = sum(map(len, rows))
    return {
        "text": text, "ratio": model.ratio, "precision": precision, "segments": len(rows),
        "exact_match": exact / len(rows), "exact_match_corrected": corrected / len(rows),
        "token_accuracy": right / tokens, "correction_bits_per_token": bits / tokens,
        # Storing the text is the dumb baseline, and it is far smaller: token ids in whole bits, uncompressed.
        "memory_bits_per_token": slot_bits / tokens,
        "raw_id_bits_per_token": math.ceil(math.log2(model.backbone.vocabulary)),
        "seconds": round(time.perf_counter() - began, 2),
    }  # fmt: skip
