"""Scripts of scale run at toy sizes; what is computed about memory is what is there."""

from __future__ import annotations

import math
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config

from benchmarks.systems import memory_table
from benchmarks.systems.memory_sizes import training_bytes
from benchmarks.systems.scale import command
from benchmarks.systems.scale_gpu import random_shape, step_flops
from r3mem import InputError
from tests.benchmarks.scripts import run
from tests.tiny_models import WIDTH

SIZES = ("--ratio", "4", "--width", str(WIDTH), "--write-layer", "2", "--read-layer", "1")
RANDOM = "300,32,48,2,4,2,8"


def test_the_page_says_what_is_computed() -> None:
    page = memory_table.PAGE.read_text(encoding="utf-8")
    assert memory_table.in_page(page, memory_table.markdown(memory_table.table_rows())) == page


def test_computed_memory_is_what_a_real_model_takes(text: Path, backbone_folder: Path) -> None:
    page = text.parent / "page.md"
    page.write_text(f"before\n{memory_table.BEGIN}\nold\n{memory_table.END}\nafter\n")
    sizes = ("--dtype", "bfloat16", "--ratio", "4", "--rank", "4", "--share", "0.5", "--page", str(page))
    written = run("systems.memory_table", text, backbone_folder, *sizes, "--points", "1x16", "2x48", "3x32")
    saved = [row for row in written["checks"] if row["what"].startswith("saved")]
    exact = [row for row in written["checks"] if row not in saved]
    assert len(saved) == 3 and len(exact) == 17 and all(row["computed"] == row["counted"] for row in exact)
    # The few small tensors that are not listed weigh more beside a tiny model.
    assert all(abs(row["relative_error"]) < 0.03 for row in saved), saved
    lines = page.read_text()
    assert lines.startswith("before\n") and lines.endswith("after\n") and "Llama 3.1 8B" in lines and "old" not in lines


def test_what_strategies_split() -> None:
    one, ddp, fsdp = (training_bytes(1000, strategy, 4) for strategy in ("one", "ddp", "fsdp"))
    assert (one.total, ddp.total, fsdp.total) == (16_000, 20_000, 20_000)
    zero = training_bytes(1001, "zero2", 4, bucket=10)
    assert zero.optimizer == 2 * 4 * 251 and zero.buckets == 80 and zero.weights == 4 * (1001 + 251)


def test_operations_of_a_step_are_those_that_are_counted(tiny_backbone: Any) -> None:
    backbone, tokens = tiny_backbone(), 24
    backbone.base.set_attn_implementation("eager")
    shape = memory_table.shape_of(backbone.base.config)
    embedded_1ND = torch.randn(1, tokens, WIDTH, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        backbone.model(inputs_embeds=embedded_1ND).logits.sum().backward()
    adapters = shape.adapter_weights(4)
    # Eager attention computes the half above the diagonal too.
    half = 6 * shape.layers * shape.heads * shape.head_width * tokens**2
    # Angles of the positions are a product as well.
    angles = 2 * tokens * shape.head_width // 2
    assert math.isclose(counter.get_total_flops(), step_flops(shape, adapters, tokens) + half + angles, rel_tol=1e-3)


def test_steps_on_one_device(text: Path, backbone_folder: Path) -> None:
    sizes = ("--device", "cpu", "--lengths", "32", "64", "--steps", "1", "--warmup", "1", "--couplings", "1")
    more = ("--ratio", "4", "--share", "0.5", "--rank", "4", "--random", RANDOM, "--peak-tflops", "1")
    rows = run("systems.scale_gpu", text, backbone_folder, *sizes, *more)["rows"]
    assert [(row["attention"], row["recomputes"], row["tokens"]) for row in rows if "random" in row["method"]] == [
        (attention, recomputes, tokens)
        for attention in ("sdpa", "eager") for recomputes in (True, False) for tokens in (32, 64)
    ]  # fmt: skip
    assert len(rows) == 16 and all(0 < row["share_of_peak"] < 1 and row["tokens_per_second"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("strategy", "batch", "told"),
    [
        ("zero9", 2, "give one, one_all_threads or the name of a file"),
        ("ddp", 3, "cannot be split evenly over 2 processes"),
    ],
)
def test_what_cannot_be_run_is_told_at_once(tmp_path: Path, strategy: str, batch: int, told: str) -> None:
    with pytest.raises(InputError, match=told):
        command(strategy, Namespace(batch=batch, processes=2), tmp_path)


def test_shapes_are_names_or_numbers() -> None:
    assert random_shape("Llama 3.2 1B").layers == 16 and random_shape(RANDOM).head_width == 8
    with pytest.raises(InputError, match="or seven numbers"):
        random_shape("huge")


def test_a_family_that_is_not_computed_is_refused() -> None:
    with pytest.raises(InputError, match="GPT2Config: memory is computed for Llamas only"):
        memory_table.shape_of(GPT2Config())


@pytest.mark.slow
def test_strategies_in_turn(text: Path, backbone_folder: Path) -> None:
    sizes = (*SIZES, "--segment", "16", "--steps", "2", "--warmup", "1", "--repeats", "1")
    written = run("systems.scale", text, backbone_folder, *sizes, "--strategies", "ddp", "deepspeed_zero1")
    one, ddp, zero1 = written["rows"]
    assert [row["processes"] for row in written["rows"]] == [1, 2, 2] and one["relative_to_one"] == 1
    assert all(row["tokens_per_second"] / row["steps_per_second"] == pytest.approx(64) for row in written["rows"])
    # The memory that ZeRO is said to save is saved.
    weights = round(one["trained_mib"] * 2**20 / 4)
    for row, strategy in ((one, "one"), (ddp, "ddp"), (zero1, "zero1")):
        computed = training_bytes(weights, strategy, 2).optimizer / 2**20
        assert row["optimizer_mib"] == pytest.approx(computed, rel=0.05)


@pytest.mark.slow
def test_prediction_by_number_of_processes(text: Path, backbone_folder: Path) -> None:
    short = text.with_name("documents.jsonl")
    short.write_text("".join(f'{{"text": "Document {i} of some words."}}\n' for i in range(7)))
    more = ("--documents", "5", "--segment", "16", "--repeats", "1")
    written = run("systems.predict_ranks", short, backbone_folder, *SIZES, *more)
    assert [(row["processes"], row["threads_each"]) for row in written["rows"]] == [(1, 1), (1, 2), (2, 1)]
    assert {row["documents"] for row in written["rows"]} == {5} and len({row["tokens"] for row in written["rows"]}) == 1
    assert all(0 < tokens < written["rows"][2]["tokens"] for tokens in written["rows"][2]["tokens_by_rank"])
