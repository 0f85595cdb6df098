"""The data module: batches give the documents back, and a stopped run goes on at the very next batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers import PreTrainedTokenizerFast

from datamodules.documents import DocumentsDataModule
from datamodules.segment_loader import SegmentBatch, SegmentLoader
from r3mem.errors import ConfigError, InputError
from r3mem.model.run_contract import HasModelSide, ModelSide
from tests.datamodules.small_documents import TEXTS, module, read_back

pytestmark = pytest.mark.usefixtures("cache_in_tmp")


def flat(batch: SegmentBatch) -> list[Any]:
    return [batch[key].tolist() for key in ("ids_BTN", "lengths_BT", "reset_B", "document_B")]  # type: ignore[literal-required]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=60), min_size=1, max_size=12),
    segments=st.integers(1, 3),
    segment_tokens=st.one_of(st.integers(1, 9), st.sampled_from([(1, 9), (4, 5), (3, 3)])),
    batch_size=st.integers(1, 4),
)
def test_segments_of_a_row_give_the_document_back(
    tmp_path_factory: pytest.TempPathFactory,
    byte_tokenizer: PreTrainedTokenizerFast,
    texts: list[str],
    segments: int,
    segment_tokens: int | tuple[int, int],
    batch_size: int,
) -> None:
    texts = [text for text in texts if text.strip()] or ["x"]
    folder = tmp_path_factory.mktemp("docs")
    sizes = {"segments_per_step": segments, "segment_tokens": segment_tokens, "batch_size": batch_size}
    data = module(folder, byte_tokenizer, texts, cache_dir=str(folder / "cache"), **sizes)
    data.setup()
    for loader in (data.train_dataloader(), data.predict_dataloader()):
        found = read_back(list(loader))
        for number, text in enumerate(texts):
            ids = byte_tokenizer(text, add_special_tokens=False)["input_ids"]
            assert found[number] == ids
            assert byte_tokenizer.decode(found[number]) == text
        assert len(found) == len(texts)


def test_shapes_types_and_padding(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    data = module(tmp_path, byte_tokenizer, ["abcdefghijk", "xy"], batch_size=3)
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    pad = byte_tokenizer.pad_token_id
    assert batch["ids_BTN"].shape == (3, 2, 8) and batch["ids_BTN"].dtype == torch.long
    assert batch["lengths_BT"].tolist() == [[8, 3], [2, 0], [0, 0]] and batch["lengths_BT"].dtype == torch.long
    assert batch["reset_B"].tolist() == [True, True, True] and batch["reset_B"].dtype == torch.bool
    assert batch["document_B"].tolist() == [0, 1, -1]
    beyond_BTN = torch.arange(8) >= batch["lengths_BT"][..., None]
    assert (batch["ids_BTN"][beyond_BTN] == pad).all()
    assert (batch["ids_BTN"][~beyond_BTN] != pad).all()
    assert data.documents("predict").origin(1) == f"{tmp_path / 'train.jsonl'}:2"


def test_lengths_are_drawn_for_training_alone(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    data = module(tmp_path, byte_tokenizer, segment_tokens=(3, 9), validation=str(tmp_path / "train.jsonl"))
    data.setup()
    assert data.segment_tokens == 9
    trained = {n for batch in data.train_dataloader() for n in batch["lengths_BT"].flatten().tolist()}
    assert {3, 9} < trained and max(trained) == 9
    for loader in (data.val_dataloader(), data.predict_dataloader()):
        assert isinstance(loader, SegmentLoader)
        for lengths_BT in (batch["lengths_BT"] for batch in loader):
            assert lengths_BT.shape[1] == 2 and bool((lengths_BT[:, 0] == 9).logical_or(lengths_BT[:, 1] == 0).all())


def test_splits_from_train_are_disjoint_and_those_given_are_used(
    tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    data = module(tmp_path, byte_tokenizer, validation_fraction=0.3, test_fraction=0.2)
    data.setup()
    parts = [set(data.documents(split).digests.tolist()) for split in ("train", "validation", "test")]  # type: ignore[arg-type]
    assert all(parts) and sum(map(len, parts)) == len(set.union(*parts)) == len(TEXTS)
    assert len(data.documents("predict")) == len(TEXTS)
    (tmp_path / "v.txt").write_text("other text")
    both = module(tmp_path, byte_tokenizer, validation=str(tmp_path / "v.txt"), validation_fraction=0.3)
    both.setup("fit")
    assert len(both.documents("train")) == len(TEXTS) and len(both.documents("validation")) == 1
    both.setup("test")
    with pytest.raises(InputError, match="test split is empty"):
        both.test_dataloader()


def test_documents_in_train_and_validation_are_warned_of(
    tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    (tmp_path / "v.txt").write_text(TEXTS[3])
    data = module(tmp_path, byte_tokenizer, validation=str(tmp_path / "v.txt"))
    with pytest.warns(UserWarning, match="1 documents of validation are also in train"):
        data.setup("fit")


def test_short_documents_are_left_out_of_training_and_counted(
    tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr("datamodules.documents.rank_zero_info", lines.append)
    monkeypatch.setattr("datamodules.text_data.rank_zero_info", lines.append)
    data = module(tmp_path, byte_tokenizer, ["a", "bb", "ccc", ""], min_tokens=2)
    data.setup()
    assert len(data.documents("train")) == 2 and len(data.documents("predict")) == 3
    assert any("1 shorter than min_tokens=2 left out" in line for line in lines)
    assert any("left out: 1 empty documents" in line and "tokens/s" in line for line in lines)


def test_several_sources_are_one_corpus(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    names = []
    for name in ("a.txt", "b.md", "c.txt"):
        (tmp_path / name).write_text(f"this is {name}")
        names.append(str(tmp_path / name))
    data = module(tmp_path, byte_tokenizer, train=names)
    data.setup("predict")
    found = read_back(list(data.predict_dataloader()))
    assert [byte_tokenizer.decode(found[i]) for i in range(3)] == ["this is a.txt", "this is b.md", "this is c.txt"]
    assert [data.documents("predict").origin(i) for i in range(3)] == names


@pytest.mark.parametrize("mode", ["stream", "window"])
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("segment_tokens", [8, (3, 9)])
def test_loader_goes_on_at_the_next_batch(
    tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast, mode: Any, workers: int, segment_tokens: Any
) -> None:
    def loader(epoch: int = 0) -> SegmentLoader:
        data = module(tmp_path, byte_tokenizer, mode=mode, num_workers=workers, segment_tokens=segment_tokens)
        data.setup("fit")
        train = data.train_dataloader()
        train.batch_sampler.set_epoch(epoch)
        return train

    whole = [flat(batch) for batch in loader(epoch=1)]
    stopped = loader(epoch=1)
    batches = iter(stopped)
    before = [flat(next(batches)) for _ in range(4)]
    state = json.loads(json.dumps(stopped.state_dict()))
    resumed = loader()
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    after = [flat(batch) for batch in resumed]
    assert before + after == whole
    resumed.batch_sampler.set_epoch(1)
    assert [flat(batch) for batch in resumed] == whole


def test_state_of_another_run_is_refused(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    def loader(**options: Any) -> SegmentLoader:
        data = module(tmp_path, byte_tokenizer, **options)
        data.setup("fit")
        return data.train_dataloader()

    state = loader().state_dict()
    with pytest.raises(ConfigError, match="3 rows a step"):
        loader(batch_size=4).load_state_dict(state)
    for changed in ({"seed": 1}, {"segment_tokens": (6, 10)}):  # As many tokens a batch, cut otherwise.
        with pytest.raises(ConfigError, match="seed, mode or segment sizes"):
            loader(**changed).load_state_dict(state)


def test_reading_leaves_the_models_randomness_alone(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    data = module(tmp_path, byte_tokenizer)
    data.setup("fit")
    before = torch.get_rng_state()
    list(data.train_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


class Recorder(LightningModule):
    """Trains one number and writes down every batch; hands nothing over."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, list[Any]]] = []

    def training_step(self, batch: SegmentBatch) -> torch.Tensor:
        self.seen.append((self.current_epoch, flat(batch)))
        return self.weight * 1.0

    def validation_step(self, batch: SegmentBatch) -> None:
        pass

    def predict_step(self, batch: SegmentBatch) -> SegmentBatch:
        return batch

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class WithTokenizer(Recorder, HasModelSide):
    """Hands over its tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def model_side(self) -> ModelSide:
        return ModelSide(self.tokenizer)


def trainer(tmp_path: Path, **options: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(accelerator="cpu", devices=1, default_root_dir=tmp_path, **quiet, **options)


@pytest.mark.parametrize(("workers", "segment_tokens"), [(0, 8), (1, 8), (0, (3, 9))])
def test_lightning_resumes_exactly_from_every_step(
    tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast, workers: int, segment_tokens: Any
) -> None:
    options: dict[str, Any] = {"num_workers": workers, "segment_tokens": segment_tokens}
    data = module(tmp_path, byte_tokenizer, TEXTS[:10], validation=str(tmp_path / "train.jsonl"), **options)
    saved = ModelCheckpoint(tmp_path / "steps", filename="{step}", every_n_train_steps=1, save_top_k=-1)
    whole = Recorder()
    trainer(tmp_path, max_epochs=3, callbacks=[saved]).fit(whole, datamodule=data)
    n_batches = len(whole.seen) // 3
    assert [epoch for epoch, _ in whole.seen] == sorted([0, 1, 2] * n_batches)
    assert whole.seen[0][1] != whole.seen[n_batches][1]
    steps = range(1, len(whole.seen)) if workers == 0 else (2, n_batches, n_batches + 3)
    for step in steps:
        resumed = Recorder()
        again = module(tmp_path, byte_tokenizer, validation=str(tmp_path / "train.jsonl"), **options)
        path = str(tmp_path / "steps" / f"step={step}.ckpt")
        trainer(tmp_path, max_epochs=3, enable_checkpointing=False).fit(resumed, datamodule=again, ckpt_path=path)
        assert resumed.seen == whole.seen[step:], f"step {step} of {len(whole.seen)}"


def test_lightning_predicts_every_document_once_in_order(
    tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    data = module(tmp_path, byte_tokenizer)
    batches = trainer(tmp_path).predict(Recorder(), datamodule=data)
    found = read_back(batches)  # type: ignore[arg-type]
    assert list(found) == list(range(len(TEXTS)))
    assert [byte_tokenizer.decode(found[i]) for i in range(len(TEXTS))] == TEXTS


def test_overfitting_repeats_its_batches(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    model = Recorder()
    trainer(tmp_path, max_epochs=2, overfit_batches=2, enable_checkpointing=False).fit(
        model, datamodule=module(tmp_path, byte_tokenizer)
    )
    batches = [batch for _, batch in model.seen]
    assert len(batches) == 4 and batches[:2] == batches[2:]


def test_tokenizer_of_the_model_or_a_folder_is_taken(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    data = module(tmp_path, None)
    trainer(tmp_path, max_steps=1, enable_checkpointing=False).fit(WithTokenizer(byte_tokenizer), datamodule=data)
    assert data.tokenizer is byte_tokenizer
    byte_tokenizer.save_pretrained(tmp_path / "tokenizer")
    saved = module(tmp_path, str(tmp_path / "tokenizer"))
    saved.setup("predict")
    assert read_back(list(saved.predict_dataloader())) == read_back(list_of(data))
    with pytest.raises(ConfigError, match="no tokenizer: pass tokenizer="):
        module(tmp_path, None).setup("fit")
    with pytest.raises(InputError, match="could not be loaded"):
        module(tmp_path, str(tmp_path / "nothing")).setup("fit")


def list_of(data: DocumentsDataModule) -> list[SegmentBatch]:
    data.setup("predict")
    return list(data.predict_dataloader())


def test_window_mode_evaluates_every_token_once(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    data = module(tmp_path, byte_tokenizer, mode="window", validation=str(tmp_path / "train.jsonl"))
    data.setup("fit")
    loader = data.val_dataloader()
    assert isinstance(loader, SegmentLoader)
    batches = list(loader)
    assert all(batch["reset_B"].all() for batch in batches)
    total = sum(int(batch["lengths_BT"].sum()) for batch in batches)
    assert total == sum(len(text.encode()) for text in TEXTS)
    assert all(batch["reset_B"].all() for batch in data.train_dataloader())


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"segment_tokens": -1},
        {"segment_tokens": (8, 4)},
        {"segments_per_step": 0},
        {"max_documents": 0},
        {"num_workers": -1},
        {"mode": "both"},
        {"validation_fraction": 0.6, "test_fraction": 0.4},
        {"test_fraction": -0.1},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        DocumentsDataModule(**wrong)


def test_using_data_before_setup_is_refused(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ConfigError, match=r"call setup\(\) first"):
        module(tmp_path, byte_tokenizer).train_dataloader()


def test_default_text_needs_no_file(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    data = DocumentsDataModule(tokenizer=byte_tokenizer)
    data.setup("fit")
    assert len(data.documents("train")) > 50 and len(data.documents("validation")) > 0
    assert next(iter(data.train_dataloader()))["lengths_BT"][:, 0].max() == 256
