"""The baseline of ``recall.py``: the language model reconstructs a segment from its virtual tokens (ICAE, 2307.06945).

Shape legend: B batch, N text tokens.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from benchmarks.compare.methods import compressor_of
from benchmarks.parts import training
from benchmarks.parts.harness import documents, name_of
from r3mem import Backbone, R3Mem, Segments
from r3mem.hierarchy import Flat
from r3mem.objectives import reconstruction_nll
from r3mem.reversible import AutoregressiveDecoder

SEGMENT = 256
BATCH = 4


def autoregressive_rows(args: argparse.Namespace, ratio: int) -> list[dict[str, Any]]:
    """Train virtual tokens and adapters to reconstruct segments; teacher-forced and free-running on held-out segments.

    Args:
        args: ``text``, ``decoder_tokens`` (training budget), ``backbone``, ``dtype``, ``seed``.
        ratio: Text tokens per virtual token.
    """
    backbone = Backbone(args.backbone, args.dtype)
    model = R3Mem(
        backbone, compressor_of("virtual_tokens", backbone, ratio), AutoregressiveDecoder(ratio), Flat(SEGMENT)
    )
    model.calibrate(segments=16)
    per_text = 2 * args.decoder_tokens // len(args.text) + 8 * SEGMENT
    train: list[list[int]] = []
    held: dict[str, list[list[int]]] = {}
    for path in args.text:
        texts = documents(path, backbone, per_text)
        rows = [ids[i : i + SEGMENT] for ids in texts for i in range(0, len(ids) - SEGMENT + 1, SEGMENT)]
        held[name_of(path)], train = rows[:4], train + rows[8:]
    draw = torch.Generator().manual_seed(args.seed)

    def drawn() -> torch.Tensor:
        return torch.tensor([train[i] for i in torch.randint(len(train), (BATCH,), generator=draw).tolist()])

    def loss(step: int, ids_BN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        text = Segments.whole(ids_BN)
        total, count = reconstruction_nll(model.reconstruct(text, model.step(text, logits=False).state), text)
        return total / count, total / count

    steps = max(1, args.decoder_tokens // (BATCH * SEGMENT))
    cost = training.train("decoder", model, steps, 1e-3, drawn, loss, torch.Tensor.numel)
    return [
        {"text": text, "ratio": ratio, **_scores(model, rows), "segments": len(rows),
         "train_tokens": cost.train_tokens, "train_seconds": round(cost.train_seconds), "parameters": cost.parameters}
        for text, rows in held.items()
    ]  # fmt: skip


@torch.no_grad()
def _scores(model: R3Mem, rows: list[list[int]]) -> dict[str, float]:
    text = Segments.pad(rows)
    reconstructed = model.reconstruct(text, model.step(text, logits=False).state)
    assert reconstructed.opening_BV is not None and reconstructed.logits_BNV is not None
    forced_BN = torch.cat([reconstructed.opening_BV[:, None], reconstructed.logits_BNV[:, :-1]], 1).argmax(-1)
    memories = model.retain(rows)
    tokens, wrong = text.ids_BN.numel(), [sum(memory.wrong) for memory in memories]
    return {
        "teacher_forced_accuracy": float((forced_BN == text.ids_BN).float().mean()),
        "free_running_accuracy": 1 - sum(wrong) / tokens,
        "exact_match": sum(count == 0 for count in wrong) / len(rows),
        "exact_match_corrected": sum(
            model.recall_ids(memory) == ids for memory, ids in zip(memories, rows, strict=True)
        )
        / len(rows),
        "correction_bits_per_token": sum(memory.correction_bits for memory in memories) / tokens,
    }
