"""Throughput counts real tokens and leaves validation out; the writer stores whole documents; requeueing is checked."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lightning_modules.callbacks import MemoryWriter, Throughput, throughput
from r3mem import Memory
from r3mem.model.run_contract import DataSide


def test_tokens_a_second_are_of_real_tokens_without_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: clock[0])
    found: list[tuple[int, dict[str, float]]] = []
    logger = SimpleNamespace(log_metrics=lambda metrics, step: found.append((step, metrics)))
    # Two processes: what is reduced over them is twice what this one has.
    strategy = SimpleNamespace(reduce=lambda tokens, reduce_op: 2 * tokens)
    trainer: Any = SimpleNamespace(global_step=0, loggers=[logger], strategy=strategy)
    module: Any = SimpleNamespace(device=torch.device("cpu"))
    batch = {"lengths_BT": torch.tensor([[8, 8], [4, 0]])}
    callback = Throughput(every_n_steps=2)
    callback.on_train_start(trainer, module)
    for step in (1, 2, 3, 4):
        clock[0] += 1.0
        trainer.global_step = step
        callback.on_train_batch_end(trainer, module, None, batch, step)
        callback.on_validation_start(trainer, module)
        clock[0] += 100.0
        callback.on_validation_end(trainer, module)
    assert [step for step, _ in found] == [1, 3]
    assert [metrics["tokens_per_second"] for _, metrics in found] == [40.0, 40.0]
    assert all(50 < metrics["peak_memory_mb"] < 1e6 for _, metrics in found)

    found.clear()
    silent = Throughput(every_n_steps=0)
    silent.on_train_start(trainer, module)
    silent.on_train_batch_end(trainer, module, None, batch, 5)
    assert found == []


def record(n_tokens: int) -> Memory:
    return Memory(
        torch.ones(1, 2, 4), torch.ones(1, 2), torch.ones(1, 2), "float32", 2, torch.tensor([n_tokens]), 4, [b""], [0],
        {"stack": "a"}, [0],
    )  # fmt: skip


class Corpus:
    """Two documents, as ``DocumentsDataModule`` hands them over."""

    lengths, digests = np.array([12, 8]), np.array([10, 11], np.uint64)

    def __len__(self) -> int:
        return 2

    def origin(self, document: int) -> str:
        return f"text {document}"


def run(
    writer: MemoryWriter, folder: Path, batches: list[tuple[list[int], list[tuple[int, Memory]]]], known: bool
) -> Any:
    """Feed batches of ``(documents, records)``; gives the module."""
    strategy = SimpleNamespace(barrier=lambda: None)
    trainer: Any = SimpleNamespace(log_dir=str(folder), strategy=strategy, is_global_zero=True)
    module: Any = SimpleNamespace(
        model=SimpleNamespace(fingerprint={"stack": "a"}), finished_documents=frozenset(),
        data_side=DataSide(predicted=Corpus() if known else None),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("r3mem.model.saving.version", lambda model: model.fingerprint["stack"])
        writer.on_predict_start(trainer, module)
    for number, (documents, records) in enumerate(batches):
        batch = {"document_B": torch.tensor(documents)}
        writer.write_on_batch_end(trainer, module, records, None, batch, number, 0)
    writer.on_predict_epoch_end(trainer, module)
    return module


@pytest.mark.filterwarnings("ignore:.*not read to their end")
def test_only_whole_documents_are_written_and_not_made_again(tmp_path: Path) -> None:
    batches = [([0, 1], [(0, record(8)), (1, record(8))])]
    run(MemoryWriter(), tmp_path, batches, known=True)
    (path,) = (tmp_path / "memories").glob("*.safetensors")
    assert path.name == "00000001-000000000000000b.safetensors" and Memory.load(path).n_tokens == 8
    assert (tmp_path / "memories" / "index.jsonl").read_text().count("\n") == 1

    module = run(MemoryWriter(), tmp_path, [([0, -1], [(0, record(8))]), ([0, -1], [(0, record(4))])], known=True)
    assert module.finished_documents == {1}
    assert Memory.load(tmp_path / "memories" / "00000000-000000000000000a.safetensors").lengths_T.tolist() == [8, 4]
    assert run(MemoryWriter(resume=False), tmp_path, [], known=True).finished_documents == frozenset()

    path.write_bytes(path.read_bytes()[:20])
    assert run(MemoryWriter(), tmp_path, [], known=True).finished_documents == {0}


def test_without_lengths_a_document_ends_where_its_row_goes_on_to_another(tmp_path: Path) -> None:
    writer = MemoryWriter(folder=str(tmp_path / "here"))
    run(writer, tmp_path, [([0], [(0, record(8))]), ([0], [(0, record(4))]), ([1], [(1, record(3))])], known=False)
    found = {path.name: Memory.load(path).n_tokens for path in (tmp_path / "here").glob("*.safetensors")}
    assert found == {"00000000.safetensors": 12, "00000001.safetensors": 3}
