"""What every data module of (segment, query) pairs has to keep. A new one gets these tests by one subclass.

```python
class TestMyDataModule(DataModuleBattery):
    records = [...]           # at least 12, all different

    @staticmethod
    def build(train: str, **options: Any) -> MyDataModule:
        return MyDataModule(train, fields=..., **options)
```
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning.pytorch import LightningModule
from transformers import PreTrainedTokenizerFast

from datamodules.pair_batch import PairBatch
from datamodules.pairs import PairDataModule, PairLoader
from r3mem import ConfigError
from r3mem.model.run_contract import HasModelSide, ModelSide
from r3mem.plain_data.query_template import TEMPLATE, QueryTemplate

Plain = dict[str, Any]


def plain(batch: PairBatch) -> Plain:
    """A batch as lists, to be compared."""
    return {name: value.tolist() for name, value in batch.items()}  # type: ignore[attr-defined]


def rows_of(batch: PairBatch) -> list[tuple[Any, ...]]:
    """The rows that hold text, without padding: document, segments, queries, marks."""
    found = []
    for b, document in enumerate(batch["document_B"].tolist()):
        if document < 0:
            continue
        segments = [ids[:n] for ids, n in zip(batch["ids_BTN"][b].tolist(), batch["lengths_BT"][b], strict=True)]
        queries = [ids[:n] for ids, n in zip(batch["query_BTQ"][b].tolist(), batch["query_lengths_BT"][b], strict=True)]
        found.append((document, str(segments), str(queries), str(batch["relevant_BT"][b].tolist())))
    return found


class Serving(LightningModule, HasModelSide):
    """A model of which data are told its side alone."""

    def __init__(self, side: ModelSide) -> None:
        super().__init__()
        self.side = side

    def model_side(self) -> ModelSide:
        return self.side


def at_rank(module: PairDataModule[Any], rank: int, world_size: int) -> PairDataModule[Any]:
    """The module as a process of a distributed run sees it."""
    place = {"num_replicas": world_size, "rank": rank}
    module.trainer = SimpleNamespace(  # type: ignore[assignment]
        distributed_sampler_kwargs=place, overfit_batches=0, lightning_module=None
    )
    return module


class DataModuleBattery:
    """Shared tests; a subclass gives records and says how a module of them is made."""

    records: ClassVar[Sequence[dict[str, Any]]]

    @staticmethod
    def build(train: str, **options: Any) -> PairDataModule[Any]:
        """A data module; ``options`` are those of :class:`PairDataModule`."""
        raise NotImplementedError

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in self.records)
        (tmp_path / "train.jsonl").write_text(lines, encoding="utf-8")
        return tmp_path

    def module(self, folder: Path, tokenizer: PreTrainedTokenizerFast, **options: Any) -> PairDataModule[Any]:
        shared = {"tokenizer": tokenizer, "batch_size": 3, "cache_dir": str(folder / "cache"), "test_fraction": 0.0}
        return self.build(str(folder / "train.jsonl"), **{**shared, "validation_fraction": 0.0, **options})

    def loader(self, folder: Path, tokenizer: PreTrainedTokenizerFast, epoch: int = 0, **options: Any) -> PairLoader:
        module = self.module(folder, tokenizer, **options)
        module.setup("fit")
        loader = module.train_dataloader()
        loader.batch_sampler.set_epoch(epoch)
        return loader

    def test_shapes_types_and_padding(self, folder: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
        for batch in self.loader(folder, byte_tokenizer):
            n_rows, n_segments, n_tokens = batch["ids_BTN"].shape
            n_query = batch["query_BTQ"].shape[2]
            assert n_rows == 3 and batch["document_B"].shape == (3,)
            for name in ("lengths_BT", "query_lengths_BT", "relevant_BT"):
                assert batch[name].shape == (3, n_segments)
            assert batch["level_T"].shape == batch["source_T"].shape == (n_segments,)
            assert batch["relevant_BT"].dtype == torch.bool
            assert all(v.dtype == torch.long for k, v in batch.items() if k != "relevant_BT")  # type: ignore[attr-defined]
            for ids, lengths, width in (
                ("ids_BTN", "lengths_BT", n_tokens),
                ("query_BTQ", "query_lengths_BT", n_query),
            ):
                beyond = torch.arange(width) >= batch[lengths][..., None]
                assert (batch[ids][beyond] == byte_tokenizer.pad_token_id).all()
                assert (batch[ids][~beyond] != byte_tokenizer.pad_token_id).all()
            assert (batch["source_T"] < torch.arange(n_segments)).all() and (batch["source_T"] >= -1).all()
            assert not (batch["relevant_BT"] & (batch["query_lengths_BT"] == 0)).any()
            empty_B = batch["document_B"] < 0
            assert (batch["lengths_BT"][empty_B] == 0).all() and (batch["query_lengths_BT"][empty_B] == 0).all()
            assert (batch["lengths_BT"][~empty_B].sum(1) > 0).all()

    def test_the_same_seed_and_epoch_give_the_same_batches(
        self, folder: Path, byte_tokenizer: PreTrainedTokenizerFast
    ) -> None:
        def batches(epoch: int = 0, **options: Any) -> list[Plain]:
            return [plain(batch) for batch in self.loader(folder, byte_tokenizer, epoch, **options)]

        assert batches() == batches() and batches(epoch=2) == batches(epoch=2)
        assert batches() != batches(epoch=1) and batches() != batches(seed=1)
        assert batches() == batches(num_workers=1)

    def test_a_stopped_epoch_goes_on_at_the_next_batch(
        self, folder: Path, byte_tokenizer: PreTrainedTokenizerFast
    ) -> None:
        whole = [plain(batch) for batch in self.loader(folder, byte_tokenizer, epoch=1)]
        for done in {0, 1, len(whole) // 2, len(whole) - 1}:
            stopped = self.loader(folder, byte_tokenizer, epoch=1)
            batches = iter(stopped)
            before = [plain(next(batches)) for _ in range(done)]
            state = json.loads(json.dumps(stopped.state_dict()))
            resumed = self.loader(folder, byte_tokenizer)
            resumed.load_state_dict(state)
            assert before + [plain(batch) for batch in resumed] == whole

    def test_the_state_of_another_run_is_refused(self, folder: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
        state = self.loader(folder, byte_tokenizer).state_dict()
        with pytest.raises(ConfigError, match="3 rows a step"):
            self.loader(folder, byte_tokenizer, batch_size=4).load_state_dict(state)
        with pytest.raises(ConfigError, match="seed"):
            self.loader(folder, byte_tokenizer, seed=1).load_state_dict(state)
        with pytest.raises(ConfigError, match="other training documents"):
            self.loader(folder, byte_tokenizer, query_tokens=5).load_state_dict(state)

    @settings(
        max_examples=8,
        deadline=None,
        # The store in the folder serves all examples; every subclass runs the same test.
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    @given(world_size=st.integers(1, 5), batch_size=st.integers(1, 7), epoch=st.integers(0, 3))
    def test_ranks_together_see_every_row_once(
        self, folder: Path, byte_tokenizer: PreTrainedTokenizerFast, world_size: int, batch_size: int, epoch: int
    ) -> None:
        def rows(world_size: int, batch_size: int) -> list[list[list[tuple[Any, ...]]]]:
            found = []
            for rank in range(world_size):
                module = at_rank(self.module(folder, byte_tokenizer, batch_size=batch_size), rank, world_size)
                module.setup("fit")
                loader = module.train_dataloader()
                loader.batch_sampler.set_epoch(epoch)
                found.append([rows_of(batch) for batch in loader])
            return found

        ranks, (alone,) = rows(world_size, batch_size), rows(1, world_size * batch_size)
        assert len({len(batches) for batches in ranks}) == 1
        # Step by step the ranks together hold what one process with as many rows holds.
        assert [list(chain.from_iterable(step)) for step in zip(*ranks, strict=True)] == alone

    def test_an_epoch_is_every_row_of_every_document(
        self, folder: Path, byte_tokenizer: PreTrainedTokenizerFast
    ) -> None:
        loader = self.loader(folder, byte_tokenizer)
        numbers = [draw.row for batch in loader.batch_sampler for draw in batch if draw.row >= 0]
        assert sorted(numbers) == list(range(len(loader.rows)))  # type: ignore[arg-type]
        seen = Counter(row[0] for batch in loader for row in rows_of(batch))
        assert set(seen) == set(range(len(self.records)))

    def test_evaluation_is_in_a_fixed_order_without_draws(
        self, folder: Path, byte_tokenizer: PreTrainedTokenizerFast
    ) -> None:
        module = self.module(folder, byte_tokenizer, validation_fraction=0.5)
        module.setup("fit")
        loader = module.val_dataloader()
        assert isinstance(loader, PairLoader)
        before = [plain(batch) for batch in loader]
        loader.batch_sampler.set_epoch(3)
        assert [plain(batch) for batch in loader] == before
        documents = [d for batch in before for d in batch["document_B"] if d >= 0]
        assert documents == sorted(documents)

    def test_splits_are_disjoint_and_complete(self, folder: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
        module = self.module(folder, byte_tokenizer, validation_fraction=0.3, test_fraction=0.3)
        module.setup()
        splits: list[Any] = ["train", "validation", "test"]
        texts = [{document.text for document in module.documents(split)} for split in splits]
        assert all(texts) and sum(map(len, texts)) == len(set.union(*texts)) == len(self.records)

    def test_documents_are_read_from_disk_and_match_the_rows(
        self, folder: Path, byte_tokenizer: PreTrainedTokenizerFast
    ) -> None:
        module = self.module(folder, byte_tokenizer)
        module.setup("fit")
        documents = module.documents("train")
        for batch in module.train_dataloader():
            for b, number in enumerate(batch["document_B"].tolist()):
                for ids_N, length in zip(batch["ids_BTN"][b], batch["lengths_BT"][b].tolist(), strict=True):
                    if number >= 0:
                        assert byte_tokenizer.decode(ids_N[:length]) in documents[number].text

    def test_the_second_run_finds_everything_done(self, folder: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
        for _ in range(2):
            module = self.module(folder, byte_tokenizer)
            module.setup("fit")
        (report,) = module.reports.values()
        assert report.reused and report.documents == len(self.records)

    def test_queries_stand_behind_the_template_of_the_model(
        self, folder: Path, byte_tokenizer: PreTrainedTokenizerFast
    ) -> None:
        def first_tokens(model: str | None, **options: Any) -> set[str]:
            module = at_rank(self.module(folder, byte_tokenizer, **options), 0, 1)
            if model is not None:
                side = ModelSide(byte_tokenizer, QueryTemplate(model))
                module.trainer.lightning_module = Serving(side)  # type: ignore[union-attr,misc]
            module.setup("fit")
            return {
                byte_tokenizer.decode(ids_Q[:1])
                for batch in module.train_dataloader()
                for ids_Q in batch["query_BTQ"][batch["query_lengths_BT"] > 0]
            }

        assert first_tokens(None) == {" "} == first_tokens("Asked: {query}") == first_tokens(TEMPLATE)
        for found in (
            first_tokens("Asked:\n{query}"),
            first_tokens(None, query_template="{query}"),
            first_tokens("{query}", query_template="{query}"),
        ):
            assert found and " " not in found
        with pytest.raises(ConfigError, match=r"'A \{query\}' for the data but '\{query\}' for the model"):
            first_tokens("{query}", query_template="A {query}")
        module = at_rank(self.module(folder, byte_tokenizer), 0, 1)
        module.setup("fit")
        side = ModelSide(byte_tokenizer, QueryTemplate("{query}"))
        module.trainer.lightning_module = Serving(side)  # type: ignore[union-attr,misc]
        with pytest.raises(ConfigError, match="for the data but"):
            module.setup("fit")

    def test_impossible_settings(self) -> None:
        for wrong in ({"batch_size": 0}, {"query_tokens": 0}, {"seed": -1}, {"num_workers": -1}, {"max_documents": 0}):
            with pytest.raises(ConfigError):
                self.build("x.jsonl", **wrong)
        with pytest.raises(ConfigError, match="must end with"):
            self.build("x.jsonl", query_template="Why?")
        with pytest.raises(ConfigError, match="together they must stay below 1"):
            self.build("x.jsonl", validation_fraction=0.6, test_fraction=0.4)
