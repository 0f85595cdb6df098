"""Two ranks see every document once between them: their loaders side by side, and two real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

import datamodules
from tests.datamodules.small_documents import TEXTS, module, read_back

pytestmark = pytest.mark.usefixtures("cache_in_tmp")


@pytest.mark.parametrize("segment_tokens", [8, (3, 9)])
def test_two_ranks_see_every_document_once(
    tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast, segment_tokens: Any
) -> None:
    found: list[dict[int, list[int]]] = []
    counts = []
    for rank in range(2):
        data = module(tmp_path, byte_tokenizer, segment_tokens=segment_tokens)
        place = {"num_replicas": 2, "rank": rank}
        data.trainer = SimpleNamespace(lightning_module=None, distributed_sampler_kwargs=place, overfit_batches=0)  # type: ignore[assignment]
        data.setup()
        batches = list(data.train_dataloader())
        counts.append(len(batches))
        found.append(read_back(batches))
    assert counts[0] == counts[1]
    assert not set(found[0]) & set(found[1])
    everything = found[0] | found[1]
    assert [byte_tokenizer.decode(everything[i]) for i in range(len(TEXTS))] == TEXTS


RANK_SCRIPT = """
import json, os, sys
from lightning.pytorch import LightningModule, Trainer
from transformers import AutoTokenizer
import torch
from datamodules.documents import DocumentsDataModule

class Recorder(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.zeros(())), []
    def training_step(self, batch):
        self.seen.append({name: value.tolist() for name, value in batch.items()})
        return self.weight * 1.0
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

data = DocumentsDataModule(sys.argv[1], validation_fraction=0.0, test_fraction=0.0, tokenizer=sys.argv[2], batch_size=3,
                           segment_tokens=8, segments_per_step=2)
model = Recorder()
Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=1, logger=False, enable_progress_bar=False,
        enable_checkpointing=False).fit(model, datamodule=data)
open(f"{sys.argv[3]}/rank{model.global_rank}.json", "w").write(json.dumps(model.seen))
"""


@pytest.mark.slow
def test_two_real_ranks_see_every_document_once(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    module(tmp_path, byte_tokenizer)
    byte_tokenizer.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "train.py").write_text(RANK_SCRIPT)
    arguments = [str(tmp_path / "train.py"), str(tmp_path / "train.jsonl"), str(tmp_path / "tokenizer"), str(tmp_path)]
    root = str(Path(datamodules.__file__).parents[1])
    subprocess.run([sys.executable, *arguments], check=True, timeout=200, env=os.environ | {"PYTHONPATH": root})
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    found = [read_back([{k: torch.tensor(v) for k, v in batch.items()} for batch in rank]) for rank in ranks]  # type: ignore[misc]
    assert len(ranks[0]) == len(ranks[1]) and not set(found[0]) & set(found[1])
    everything = found[0] | found[1]
    assert [byte_tokenizer.decode(everything[i]) for i in range(len(TEXTS))] == TEXTS
