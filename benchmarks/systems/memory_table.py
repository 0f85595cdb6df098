"""Memory of a process by model and strategy: computed, checked against real models, and written into docs/cluster.md.

Weights are checked by counting tensors: of every shape on the ``meta`` device, of the real backbone in memory.
Optimiser state is counted after a real step. Activations are checked against what autograd really saves in a training
step.

Shape legend: B rows, K virtual tokens, D width.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.parts.harness import ROOT, console, parser, run, start, table, write
from benchmarks.systems.memory_sizes import (
    SHAPES,
    Shape,
    activation_bytes,
    frozen_bytes,
    split_frozen_bytes,
    step_activation_bytes,
    trained_weights,
    training_bytes,
    word_bytes,
)
from r3mem import Backbone, InputError, R3Mem, Segments, objectives
from r3mem.compressors import VirtualTokens
from r3mem.reversible import PositionBinding, ReversibleStack

PAGE = ROOT / "docs" / "cluster.md"
BEGIN, END = "<!-- memory table: made by benchmarks/systems/memory_table.py -->", "<!-- end of the memory table -->"
GIB, MIB = 2**30, 2**20
# The shipped configurations' sizes.
RANK, RATIO, ROWS, SEGMENT, SEGMENTS, PROCESSES = 16, 16, 8, 256, 2, 8
CHECK_COLUMNS = ("what", "computed", "counted", "relative_error")


def config_of(shape: Shape) -> LlamaConfig:
    """transformers' configuration of a shape."""
    return LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.key_value_heads,
        head_dim=shape.head_width, tie_word_embeddings=shape.tied,
    )  # fmt: skip


def shape_of(config: Any) -> Shape:
    """The shape of a Llama's configuration.

    Raises:
        InputError: It is of another family.
    """
    if not isinstance(config, LlamaConfig):
        raise InputError(f"{type(config).__name__}: memory is computed for Llamas only; give one as --backbone")
    heads = int(config.num_attention_heads or 0)
    return Shape(
        config.vocab_size, config.hidden_size, config.intermediate_size, config.num_hidden_layers, heads,
        int(config.num_key_value_heads or heads), int(config.head_dim or config.hidden_size // heads),
        bool(config.tie_word_embeddings),
    )  # fmt: skip


def check(what: str, computed: int, counted: int) -> dict[str, Any]:
    """One line of the comparison."""
    return {"what": what, "computed": computed, "counted": counted, "relative_error": computed / counted - 1}


def weight_checks() -> list[dict[str, Any]]:
    """Weights and adapters of every shape, counted on the ``meta`` device, where they take no memory."""
    rows = []
    for name, shape in SHAPES.items():
        with torch.device("meta"):
            model = LlamaForCausalLM(config_of(shape))
            weights = sum(p.numel() for p in model.parameters())
            adapted = get_peft_model(model, LoraConfig(r=RANK, target_modules="all-linear", task_type="CAUSAL_LM"))
            adapters = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
        rows.append(check(f"{name}: weights", shape.linear_weights + shape.other_weights, weights))
        rows.append(check(f"{name}: adapters", shape.adapter_weights(RANK), adapters))
    return rows


def real_checks(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The real backbone: bytes of its tensors, of Adam's state after a step, and what a step saves for backward."""
    backbone = Backbone(args.backbone, args.dtype, lora_rank=args.rank)
    shape, ratio = shape_of(backbone.base.config), args.ratio[0]
    layers = shape.layers
    compressor = VirtualTokens(shape.width, ratio, write_layer=max(1, layers * 2 // 5), read_layer=max(1, layers // 8))
    decoder = ReversibleStack([PositionBinding(shape.width, ratio, args.share)])
    model = R3Mem(backbone, compressor, decoder).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    frozen = sum(p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad)
    precision = "bfloat16" if backbone.precision == "bfloat16" else "float32"
    weights = trained_weights(shape, args.rank)
    rows = [
        check("real model: frozen bytes", frozen_bytes(shape, precision), frozen),  # type: ignore[arg-type]
        check("real model: trained weights", weights, sum(p.numel() for p in trained)),
        check(
            "real model: bytes of tables and rotations", word_bytes(shape, ratio, args.share),
            sum(b.numel() * b.element_size() for b in model.buffers()),
        ),
    ]  # fmt: skip
    optimizer = torch.optim.AdamW(trained)
    for batch, tokens in args.points:
        saved, inputs = saved_bytes(model, batch, tokens)
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        computed = activation_bytes(shape, batch, tokens, ratio, args.rank)
        rows.append(check(f"saved by a step of {batch} x {tokens} tokens", computed.total, saved))
        rows.append(check(f"inputs of layers in a step of {batch} x {tokens} tokens", computed.inputs, inputs))
    optimizer.step()
    state = [t for kept in optimizer.state.values() for t in kept.values() if torch.is_tensor(t) and t.numel() > 1]
    counted = sum(t.numel() * t.element_size() for t in state)
    return [*rows, check("real model: bytes of Adam's state", training_bytes(weights, "one", 1).optimizer, counted)]


def saved_bytes(model: R3Mem, batch: int, tokens: int) -> tuple[int, int]:
    """Bytes of all storages that a segment behind a memory keeps for its backward pass, weights left out.

    Leaves gradients behind, as a step does.

    Returns:
        Those bytes, and the bytes of what entered the decoder layers.
    """
    text = Segments.pad([[(7 * b + i) % model.backbone.vocabulary for i in range(tokens)] for b in range(batch)])
    with torch.no_grad():
        state = model.step(text).state  # With a likelihood: the first pass of that kind tries out the head.
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    # The tensors are kept too: a storage that is let go would leave its address to another.
    kept: dict[int, torch.Tensor] = {}

    entered: list[int] = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, given: entered.append(given[0].numel() * given[0].element_size()))
        for layer in model.backbone.layers
    ]

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step = model.step(text, state, True)
        assert step.scores is not None
        summed, count = objectives.forward_nll(step.scores, text, torch.ones(batch, dtype=torch.bool))
    found = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    (summed / count).backward()
    for hook in hooks:
        hook.remove()
    return found, sum(entered)


def table_rows() -> list[dict[str, Any]]:
    """Bytes of a process for every shape, at the shipped configurations' sizes."""
    rows = []
    for name, shape in SHAPES.items():
        weights = trained_weights(shape, RANK)
        one = activation_bytes(shape, ROWS, SEGMENT, RATIO, RANK)
        state = ROWS * -(-SEGMENT // RATIO) * shape.width * 4
        row: dict[str, Any] = {"model": name, "trained_weights": weights}
        row |= {precision: frozen_bytes(shape, precision) for precision in ("float32", "bfloat16", "4-bit")}  # type: ignore[arg-type]
        row["split"] = split_frozen_bytes(shape, PROCESSES)
        row["words"] = word_bytes(shape, RATIO)
        for strategy in ("one", "ddp", "zero1", "zero2"):
            row[strategy] = training_bytes(weights, strategy, PROCESSES).total  # type: ignore[arg-type]
        row["activations"] = step_activation_bytes(one.total, SEGMENTS, False, state)
        row["replay"] = step_activation_bytes(one.total, SEGMENTS, True, state)
        row["checkpointing"] = step_activation_bytes(one.checkpointed, SEGMENTS, False, state)
        row["both"] = step_activation_bytes(one.checkpointed, SEGMENTS, True, state)
        rows.append(row)
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """The tables of the page, GiB."""
    held = {
        "float32": "float32", "bfloat16": "bfloat16", "4-bit": "4-bit", "split": f"FSDP over {PROCESSES}",
        "words": "tables", "one": "one", "ddp": "DDP, FSDP", "zero1": f"ZeRO-1 over {PROCESSES}",
        "zero2": f"ZeRO-2 over {PROCESSES}",
    }  # fmt: skip
    kept = {"activations": "all kept", "replay": "replay", "checkpointing": "checkpointing", "both": "both"}
    return "\n\n".join(_columns(rows, heads) for heads in (held, kept))


def _columns(rows: list[dict[str, Any]], heads: dict[str, str]) -> str:
    lines = ["| model | trained | " + " | ".join(heads.values()) + " |", "|" + "---|" * (len(heads) + 2)]
    for row in rows:
        cells = [f"{row[key] / GIB:.2f}" for key in heads]
        lines.append(f"| {row['model']} | {row['trained_weights'] / 1e6:.1f} M | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def in_page(page: str, lines: str) -> str:
    """The page with the table between its marks replaced."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{lines}\n{END}{rest.split(END)[1]}"


def pair(text: str) -> tuple[int, int]:
    """``2x128`` as two numbers."""
    rows, tokens = text.split("x")
    return int(rows), int(tokens)


def main() -> None:
    """Check, print, and write the page if asked."""
    p = parser("Memory of a process by model and strategy", [RATIO])
    p.add_argument("--rank", type=int, default=RANK, help="of the adapters of the real model")
    p.add_argument("--share", type=float, default=0.25, help="part of a slot that carries words")
    p.add_argument("--points", nargs="+", type=pair, default=[(1, 128), (2, 128), (1, 384)], metavar="ROWSxTOKENS",
                   help="sizes of the real steps")  # fmt: skip
    p.add_argument("--page", type=Path, default=None, metavar="FILE", help="write the table there, between its marks")
    args = start(p)
    checks = weight_checks() + real_checks(args)
    table("Computed against counted", checks, CHECK_COLUMNS)
    rows = table_rows()
    lines = markdown(rows)
    console.print(lines, highlight=False, soft_wrap=True)
    if args.page is not None:
        args.page.write_text(in_page(args.page.read_text(encoding="utf-8"), lines), encoding="utf-8")
    write(args.json, args.seed, rows, checks=checks)


if __name__ == "__main__":
    run(main)
