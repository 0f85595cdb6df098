"""How much of a training step is training: a step of ``fit`` against a bare forward and backward pass of its model.

The model is that of ``configs/model/edge_pool.yaml``, and the steps are those of a real ``fit``, with its loader, hooks
and optimiser. Between two of them the bare passes run over the same tokens: the frozen model with its adapters, with
logits and without a loss. The paths take turns, so that whatever else the machine does falls on all of them.

Shape legend: B rows, T segments of a row, N tokens of a segment, V vocabulary.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from benchmarks.parts.harness import ROOT, console, parser, peak_mib, run, start, table, timed, write
from datamodules.documents import DocumentsDataModule
from datamodules.sources import ReadingOptions, open_source
from lightning_modules.memory_module import MemoryModule
from r3mem import Backbone
from r3mem.backbone.cpu_precision import slowdown
from r3mem.compressors import EdgePool
from r3mem.reversible import PositionBinding, ReversibleStack

CONFIG = ROOT / "configs" / "model" / "edge_pool.yaml"
BARE, STEP, LOGITS = "bare forward and backward, no loss", "step of fit", "step of fit, loss from whole logits"
COLUMNS = ("path", "tokens_per_second", "relative_to_bare", "seconds", "fastest_seconds", "peak_mib")
WARM_UP = 2
# Tokens of an English character, and some more, so that no document ends within the run.
TOKENS_PER_CHARACTER = 0.2


def build(args: Any) -> MemoryModule:
    """The model as the configuration has it, its name, precision and ratio those of the command line."""
    given = yaml.safe_load(CONFIG.read_text())["model"]
    backbone = Backbone(args.backbone, args.dtype, given["backbone"]["init_args"]["lora_rank"])
    width, ratio = backbone.width, args.ratio[0]
    compressor = EdgePool(**{**given["compressor"]["init_args"], "width": width, "ratio": ratio})
    share = given["decoder"]["init_args"]["couplings"][0]["init_args"]["share"]
    optimizer = partial(torch.optim.AdamW, **given["optimizer"]["init_args"])
    stack = ReversibleStack([PositionBinding(width, ratio, share)])
    return MemoryModule(backbone, compressor, stack, optimizer=optimizer)


def long_documents(source: str, folder: Path, rows: int, tokens: int) -> str:
    """A file of as many documents as rows, each of at least so many tokens: no row ends within the run."""
    text = "\n\n".join(document.text for document in open_source(source, ReadingOptions()).documents())
    characters = int(tokens / TOKENS_PER_CHARACTER)
    whole = text * -(-2 * characters // len(text))
    starts = [row * characters // rows for row in range(rows)]
    path = folder / "long.jsonl"
    path.write_text("".join(json.dumps({"text": whole[s : s + characters]}) + "\n" for s in starts))
    return str(path)


class TakingTurns(Callback):
    """Times every step, changes what the next one does, and runs the bare passes between two of them.

    Attributes:
        seconds: Of each path, warm-up left out.
        peaks: Peak memory of each path, MiB; 0 where the system cannot forget an earlier peak.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {BARE: [], STEP: [], LOGITS: []}
        self.peaks = dict.fromkeys(self.seconds, 0.0)
        self._path, self._steps, self._began = STEP, 0, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The first step begins."""
        self._begin(pl_module, STEP)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A step has ended; loading the next batch is the next step's."""
        self._end(pl_module)
        if self._path == STEP:
            self._begin(pl_module, LOGITS)
            return
        self._begin(pl_module, BARE)
        bare(pl_module.backbone, batch)
        self._end(pl_module)
        self._steps += 1
        self._begin(pl_module, STEP)

    def _begin(self, module: LightningModule, path: str) -> None:
        self._path = path
        # A pass that never ends in front of its head gives logits, and the loss is what it is for any other head.
        if path == LOGITS:
            module.backbone.head_apart = nullcontext
        else:
            vars(module.backbone).pop("head_apart", None)
        forget_peak()
        timed(lambda: None)  # Waits for a GPU.
        self._began = time.perf_counter()

    def _end(self, module: LightningModule) -> None:
        timed(lambda: None)
        seconds = time.perf_counter() - self._began
        if self._steps >= WARM_UP:
            self.seconds[self._path].append(seconds)
            self.peaks[self._path] = max(self.peaks[self._path], peak_since())


def bare(backbone: Backbone, batch: dict[str, Tensor]) -> None:
    """The frozen model with its adapters over each segment and back from its logits, without a loss."""
    trained = [p for _, p in backbone.adapter_parameters()]
    for ids_BN in batch["ids_BTN"].unbind(1):
        with torch.autocast(backbone.device.type, backbone.compute, enabled=backbone.compute != torch.float32):
            logits_BNV = backbone.model(input_ids=ids_BN, use_cache=False).logits
        logits_BNV.backward(torch.full_like(logits_BNV, 1e-3))
    for parameter in trained:
        parameter.grad = None


def forget_peak() -> None:
    """Count the peak of memory from here on, where the system can."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def peak_since() -> float:
    """Peak memory since the last :func:`forget_peak`, MiB."""
    status = Path("/proc/self/status")
    if torch.cuda.is_available() or not status.exists():
        return peak_mib()
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 2**10


def main() -> None:
    """Train some steps, the bare passes between them."""
    p = parser("Speed of a training step against bare forward and backward passes", [16])
    p.set_defaults(dtype="auto")
    p.add_argument("--batch", type=int, default=4, help="rows")
    p.add_argument("--segment", type=int, default=256, help="tokens of a segment")
    p.add_argument("--segments", type=int, default=2, help="segments of a row in a step")
    p.add_argument("--repeats", type=int, default=6, help="timed turns; the median counts")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where to run")
    args = start(p)
    module = build(args)
    turns, tokens = TakingTurns(), args.batch * args.segments * args.segment
    steps = 2 * (args.repeats + WARM_UP)
    with tempfile.TemporaryDirectory() as folder:
        data = DocumentsDataModule(
            long_documents(args.text[0], Path(folder), args.batch, (steps + 1) * args.segments * args.segment),
            tokenizer=module.backbone.tokenizer, segment_tokens=args.segment, segments_per_step=args.segments,
            batch_size=args.batch, validation_fraction=0.0, test_fraction=0.0, cache_dir=folder,
        )  # fmt: skip
        trainer = Trainer(
            accelerator=args.device, devices=1, max_steps=steps, gradient_clip_val=1.0, limit_val_batches=0,
            callbacks=[turns], logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, use_distributed_sampler=False,
        )  # fmt: skip
        trainer.fit(module, data)
    rows = []
    for path, seconds in turns.seconds.items():
        pairs = zip(seconds, turns.seconds[BARE], strict=True)
        rows.append({
            "path": path, "tokens_per_second": round(tokens / statistics.median(seconds)),
            "relative_to_bare": round(statistics.median(bare / mine for mine, bare in pairs), 3),
            "seconds": round(statistics.median(seconds), 3), "fastest_seconds": round(min(seconds), 3),
            "turns": [round(s, 3) for s in seconds], "peak_mib": round(turns.peaks[path]),
        })  # fmt: skip
    table(f"Training in {module.backbone.precision}, {tokens:,} tokens a step", rows, COLUMNS)
    products = slowdown(torch.bfloat16) if args.device == "cpu" else None
    if products is not None:
        console.print(f"products in bfloat16 take {products:.2f} of the time of those in float32")
    write(
        args.json, args.seed, rows, dtype=module.backbone.precision, bfloat16_to_float32_seconds=products,
        tokens_per_step=tokens, attention=module.backbone.base.config._attn_implementation,
    )  # fmt: skip


if __name__ == "__main__":
    run(main)
