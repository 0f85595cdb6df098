"""Several data sets in one training: shares, order, resuming, ranks."""

from __future__ import annotations

import json
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn, optim, zeros
from transformers import PreTrainedTokenizerFast

from datamodules.documents import DocumentsDataModule
from datamodules.hierarchical import HierarchyDataModule
from datamodules.mixed import MixedDataModule, MixedLoader
from datamodules.questions import QuestionsDataModule
from r3mem.errors import ConfigError
from tests.battery.data_module import at_rank, plain, rows_of
from tests.datamodules.test_hierarchical import BOOK_FIELDS, BOOKS
from tests.datamodules.test_questions import FIELDS, RECORDS
from tests.datamodules.windows import Windows


def mixed(folder: Path, tokenizer: PreTrainedTokenizerFast, weights: list[float], **options: Any) -> MixedDataModule:
    shared = {
        "tokenizer": tokenizer,
        "batch_size": 3,
        "test_fraction": 0.0,
        "cache_dir": str(folder / "cache"),
        **options,
    }
    shared = {"validation_fraction": 0.0, **shared}
    for name, records in (("books", BOOKS[:4]), ("questions", RECORDS)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    books = HierarchyDataModule(str(folder / "books.jsonl"), BOOK_FIELDS, hierarchy=Windows(8), **shared)
    questions = QuestionsDataModule(str(folder / "questions.jsonl"), FIELDS, **shared)
    return MixedDataModule([books, questions], weights)


def loader(folder: Path, tokenizer: PreTrainedTokenizerFast, weights: tuple[float, float] = (1, 1)) -> MixedLoader:
    data = mixed(folder, tokenizer, list(weights))
    data.setup("fit")
    return data.train_dataloader()


def is_book(batch: Any) -> bool:
    return batch["source_T"].tolist() == [-1, 0, 1]


@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (1, 9)])
def test_shares_and_no_row_twice_before_all_came_once(
    tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast, weights: tuple[int, int]
) -> None:
    mixture = loader(tmp_path, byte_tokenizer, weights)
    total = sum(len(each) for each in mixture.loaders)
    seen: dict[bool, list[Any]] = {True: [], False: []}
    for epoch in range(4):
        mixture.set_epoch(epoch)
        batches = list(mixture)
        assert len(batches) == len(mixture) == total
        for batch in batches:
            seen[is_book(batch)].append(batch)
    share = len(seen[True]) / (4 * total)
    assert abs(share - weights[0] / sum(weights)) <= 1 / total
    for book, each in zip((True, False), mixture.loaders, strict=True):
        length = len(each)
        for first in range(0, len(seen[book]) - length + 1, length):
            rows = Counter(chain.from_iterable(rows_of(batch) for batch in seen[book][first : first + length]))
            documents = Counter(row[0] for row in rows.elements())
            if book:
                assert sum(documents.values()) == len(each.rows)  # type: ignore[arg-type]
            else:
                assert documents == Counter(range(len(RECORDS)))


def test_a_stopped_epoch_goes_on_at_the_next_batch(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    mixture = loader(tmp_path, byte_tokenizer, (1, 4))
    orders = []
    for epoch in (0, 1):
        mixture.set_epoch(epoch)
        orders.append([plain(batch) for batch in mixture])
    assert orders[0] != orders[1]
    for done in (1, len(orders[1]) // 2, len(orders[1]) - 1):
        stopped = loader(tmp_path, byte_tokenizer, (1, 4))
        stopped.set_epoch(1)
        batches = iter(stopped)
        assert [plain(next(batches)) for _ in range(done)] == orders[1][:done]
        state = json.loads(json.dumps(stopped.state_dict()))
        resumed = loader(tmp_path, byte_tokenizer, (1, 4))
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state and [plain(batch) for batch in resumed] == orders[1][done:]
    with pytest.raises(ConfigError, match="other training documents"):
        loader(tmp_path, byte_tokenizer, (4, 1)).load_state_dict(state)


def test_ranks_take_the_same_module_at_every_step(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    ranks = []
    for rank in range(2):
        data = mixed(tmp_path, byte_tokenizer, [1.0, 2.0])
        at_rank(data, rank, 2)  # type: ignore[arg-type]
        data.setup("fit")
        ranks.append(list(data.train_dataloader()))
    assert [is_book(batch) for batch in ranks[0]] == [is_book(batch) for batch in ranks[1]]
    for ours, theirs in zip(*ranks, strict=True):
        shared = set(ours["document_B"].tolist()) & set(theirs["document_B"].tolist()) - {-1}
        assert is_book(ours) or not shared


def test_evaluation_is_of_each_module_by_itself(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    data = mixed(tmp_path, byte_tokenizer, [1.0, 1.0], validation_fraction=0.5, test_fraction=0.2)
    data.setup()
    loaders = data.val_dataloader()
    assert [all(map(is_book, each)) for each in loaders] == [True, False]
    assert [len(corpus) for corpus in data.documents("train")] == [len(m.documents("train")) for m in data.modules]


def test_mixtures_that_make_no_sense(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    books = mixed(tmp_path, byte_tokenizer, [1.0, 1.0]).modules[0]
    for modules, weights in (([], []), ([books], [1.0, 2.0]), ([books], [0.0])):
        with pytest.raises(ConfigError, match="a weight above 0 for each"):
            MixedDataModule(modules, weights)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="DocumentsDataModule does not give pair batches"):
        MixedDataModule([DocumentsDataModule()], [1.0])


class Recorder(LightningModule):
    """Trains one number and writes down every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(zeros(()))
        self.seen: list[tuple[int, Any]] = []

    def training_step(self, batch: Any) -> Tensor:
        self.seen.append((self.current_epoch, plain(batch)))
        return self.weight * 1.0

    def configure_optimizers(self) -> optim.Optimizer:
        return optim.SGD(self.parameters(), lr=0.1)


def trainer(folder: Path, **options: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(accelerator="cpu", devices=1, default_root_dir=folder, max_epochs=2, **quiet, **options)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`", "ignore:Total length of")
def test_lightning_resumes_exactly(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    saved = ModelCheckpoint(tmp_path / "steps", filename="{step}", every_n_train_steps=1, save_top_k=-1)
    whole = Recorder()
    trainer(tmp_path, callbacks=[saved]).fit(whole, datamodule=mixed(tmp_path, byte_tokenizer, [1.0, 4.0]))
    n_batches = len(whole.seen) // 2
    assert [epoch for epoch, _ in whole.seen] == [0] * n_batches + [1] * n_batches
    for step in (2, n_batches, n_batches + 3):
        resumed = Recorder()
        path = str(tmp_path / "steps" / f"step={step}.ckpt")
        trainer(tmp_path, enable_checkpointing=False).fit(
            resumed, datamodule=mixed(tmp_path, byte_tokenizer, [1.0, 4.0]), ckpt_path=path
        )
        assert resumed.seen == whole.seen[step:], f"step {step} of {len(whole.seen)}"
