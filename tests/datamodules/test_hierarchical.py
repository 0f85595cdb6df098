"""Documents as trees: rows are paths, read back from disk as the hierarchy built them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from datamodules.fields import DocumentFields
from datamodules.hierarchical import HierarchyDataModule
from datamodules.pairs import PairLoader
from r3mem.errors import ConfigError, InputError
from r3mem.hierarchy import Document, Flat, Mention
from r3mem.model.run_contract import ModelSide
from tests.battery.data_module import DataModuleBattery, Serving
from tests.datamodules.windows import Windows

BOOK_FIELDS = DocumentFields(parts="chapters", part_title="head", part_text="paragraphs", title="title", name="id")


def book(i: int) -> dict[str, Any]:
    chapters = [
        {"head": f"Chapter {c}", "paragraphs": [f"It was {i}, in {c}."] * (i % 3 + 1)} for c in range(1 + i % 2)
    ]
    return {"id": f"b{i}", "title": f"Book {i}", "chapters": chapters}


BOOKS = [book(i) for i in range(12)]


class TestThreeLevels(DataModuleBattery):
    records = BOOKS

    @staticmethod
    def build(train: str, **options: Any) -> HierarchyDataModule:
        return HierarchyDataModule(train, BOOK_FIELDS, **{"hierarchy": Windows(), **options})


class TestOneLevel(DataModuleBattery):
    records = BOOKS

    @staticmethod
    def build(train: str, **options: Any) -> HierarchyDataModule:
        return HierarchyDataModule(train, BOOK_FIELDS, **{"hierarchy": Windows(6, widths=()), **options})


def module(
    folder: Path, own: PreTrainedTokenizerFast | None, records: list[dict[str, Any]] = BOOKS, **options: Any
) -> HierarchyDataModule:
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    options = {"fields": BOOK_FIELDS, "hierarchy": Windows(), "tokenizer": own, **options}
    return HierarchyDataModule(
        str(path), validation_fraction=0.0, test_fraction=0.0, cache_dir=str(folder / "cache"), **options
    )


def train_loader(data: HierarchyDataModule) -> PairLoader:
    data.setup("fit")
    return data.train_dataloader()


def test_rows_are_the_paths_of_the_hierarchy_s_own_trees(
    tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    data = module(tmp_path, byte_tokenizer)
    loader = train_loader(data)
    expected = []
    for number, document in enumerate(data.documents("train")):
        tree = Windows().build(Document.of(document.text, byte_tokenizer))
        parents = {node.parent for node in tree.nodes}
        for leaf in (i for i in range(len(tree.nodes)) if i not in parents):
            path: list[int] = []
            at: int | None = leaf
            while at is not None:
                path.insert(0, at)
                at = tree.nodes[at].parent
            expected.append((number, [(tree.text(tree.nodes[i]), Windows().queries(tree, i)) for i in path]))
    found = 0
    for draws, batch in zip(loader.batch_sampler, loader, strict=True):
        assert batch["level_T"].tolist() == [0, 1, 2] and batch["source_T"].tolist() == [-1, 0, 1]
        for b, draw in enumerate(draws):
            if draw.row < 0:
                continue
            found += 1
            number, path = expected[draw.row]
            assert batch["document_B"][b] == number
            for t, (text, queries) in enumerate(path):
                assert decoded(byte_tokenizer, batch["ids_BTN"][b, t], batch["lengths_BT"][b, t]) == text
                query = decoded(byte_tokenizer, batch["query_BTQ"][b, t], batch["query_lengths_BT"][b, t])
                assert query in ([f" {q}" for q in queries] or [""]) and bool(batch["relevant_BT"][b, t]) is bool(
                    queries
                )
    assert found == len(expected)


def decoded(tokenizer: PreTrainedTokenizerFast, ids_N: Tensor, length: Tensor) -> str:
    return str(tokenizer.decode(ids_N[: int(length)]))


def test_evaluation_takes_the_first_query_and_training_draws(
    tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    data = module(tmp_path, byte_tokenizer)
    loader = train_loader(data)

    def queries(loader: PairLoader) -> set[str]:
        return {
            byte_tokenizer.decode(ids[:n])
            for batch in loader
            for ids, n in zip(
                batch["query_BTQ"].flatten(0, 1), batch["query_lengths_BT"].flatten().tolist(), strict=True
            )
        }

    assert any(query.endswith("again") for query in queries(loader))
    same = module(tmp_path, byte_tokenizer, validation=str(tmp_path / "train.jsonl"))
    with pytest.warns(UserWarning, match="12 documents of validation are also in train"):
        same.setup("fit")
    first = same.val_dataloader()
    assert isinstance(first, PairLoader) and not any(query.endswith("again") for query in queries(first))


def test_one_level_rows_are_consecutive_segments(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    data = module(tmp_path, byte_tokenizer, hierarchy=Flat(5), segments_per_row=3)
    loader = train_loader(data)
    documents = data.documents("train")
    pieces: dict[int, set[str]] = {}
    for batch in loader:
        assert batch["level_T"].tolist() == [0, 0, 0] and batch["source_T"].tolist() == [-1, 0, 1]
        assert not batch["relevant_BT"].any()
        for b, number in enumerate(batch["document_B"].tolist()):
            if number >= 0:
                ids = [i for t, n in enumerate(batch["lengths_BT"][b]) for i in batch["ids_BTN"][b, t, :n].tolist()]
                pieces.setdefault(number, set()).add(byte_tokenizer.decode(ids))
    for number, found in pieces.items():
        text = documents[number].text
        assert found == {text[at : at + 15] for at in range(0, len(text), 15)}


def test_levels_that_do_not_read_one_another(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    loader = train_loader(module(tmp_path, byte_tokenizer, hierarchy=Windows(independent=True)))
    assert next(iter(loader))["source_T"].tolist() == [-1, -1, -1]


class Wavering(Windows):
    """Some nodes read the one before, which may be their parent; some read nothing."""

    def source(self, tree: Any, index: int) -> int | None:
        return index - 1 if index % 2 else None


def test_a_hierarchy_whose_sources_do_not_agree_is_refused(
    tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(ConfigError, match="source differs between segments of one level"):
        module(tmp_path, byte_tokenizer, hierarchy=Wavering()).setup("fit")
    with pytest.raises(ConfigError, match="source differs"):
        module(tmp_path, byte_tokenizer, hierarchy=Wavering(widths=())).setup("fit")


def test_documents_and_trees_come_back_as_they_were(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    text = "Größe and 漢字 in Rome.\n\nEnd."
    place = text.index("Rome")
    record = {"text": text, "title": "T", "id": 7, "marks": [{"start": place, "end": place + 4, "type": "GPE"}]}
    fields = DocumentFields(text="text", title="title", name="id", mentions="marks", mention_kind="type")
    data = module(tmp_path, byte_tokenizer, [record], fields=fields)
    data.setup("fit")
    corpus = data.documents("train")
    expected = Document.of(text, byte_tokenizer, title="T", name="7", mentions=[Mention(place, place + 4, "GPE")])
    assert corpus[0] == expected and list(corpus) == [expected]
    assert corpus.tree(0) == Windows().build(expected)
    assert corpus.origin(0) == f"{tmp_path / 'train.jsonl'}:1"


def test_what_workers_get_is_small(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    long = {"id": "x", "title": "", "chapters": [{"head": "", "paragraphs": ["y" * 8_000]}]}
    loader = train_loader(module(tmp_path, byte_tokenizer, [long], fields=DocumentFields(text="chapters.paragraphs")))
    assert next(iter(loader))["lengths_BT"].max() == 16
    assert len(pickle.dumps(loader.rows)) < 32_000


def test_the_store_is_made_again_when_something_changes(
    tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    def reused(records: list[dict[str, Any]] = BOOKS, **options: Any) -> bool:
        data = module(tmp_path, byte_tokenizer, records, **options)
        data.setup("fit")
        return next(iter(data.reports.values())).reused

    assert [reused(), reused()] == [False, True]
    # Written again with the same content: the content counts, not the time of the file.
    assert reused()
    assert not reused(hierarchy=Windows(5)) and not reused(query_tokens=9) and not reused(max_documents=3)
    assert not reused(fields=DocumentFields(text="title")) and not reused(BOOKS[1:])
    # What is given in front of a query does not change its ids, the space that belongs to it does.
    assert reused(query_template="About: {query}") and not reused(query_template="{query}")
    assert reused()


def test_what_is_left_out_is_counted_and_kept_with_the_store(
    tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    for _ in range(2):
        data = module(tmp_path, byte_tokenizer, [*BOOKS, {"id": "none", "title": "Empty", "chapters": []}])
        data.setup("fit")
        (report,) = data.reports.values()
        assert report.left_out["records without text"] == 1 and "1 records without text" in str(report)
    with pytest.raises(InputError, match=r"chapters.*leads nowhere.*the keys are: id, body"):
        module(tmp_path, byte_tokenizer, [{"id": "x", "body": "y"}]).setup("fit")
    with pytest.raises(InputError, match=r"nothing in it can be used .1 records without text"):
        module(tmp_path, byte_tokenizer, [{"text": ""}], fields=DocumentFields()).setup("fit")


def test_long_queries_and_short_documents(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    data = module(tmp_path, byte_tokenizer, query_tokens=5, min_tokens=40)
    loader = train_loader(data)
    lengths = [len(document.ids) for document in data.documents("train")]
    assert 0 < len(lengths) < len(BOOKS) and min(lengths) >= 40
    assert max(int(batch["query_lengths_BT"].max()) for batch in loader) == 5
    assert any("queries longer than 5" in what for report in data.reports.values() for what in report.left_out)


def test_hierarchy_and_tokenizer_of_the_model_are_taken(
    tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    data = module(tmp_path, byte_tokenizer, hierarchy=None)
    with pytest.raises(ConfigError, match="no hierarchy: pass hierarchy="):
        data.setup("fit")
    data.tokenizer = None
    model = Serving(ModelSide(byte_tokenizer, hierarchy=Flat(3)))
    data.trainer = SimpleNamespace(lightning_module=model, overfit_batches=0, distributed_sampler_kwargs=None)  # type: ignore[assignment]
    assert next(iter(train_loader(data)))["lengths_BT"].max() == 3
    with pytest.raises(ConfigError, match="no tokenizer"):
        module(tmp_path, None).setup("fit")


def test_plain_text_files_need_no_mapping(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    (tmp_path / "a.txt").write_text("A text of its own.")
    data = HierarchyDataModule(
        str(tmp_path / "a.txt"), hierarchy=Windows(), tokenizer=byte_tokenizer, validation_fraction=0, test_fraction=0,
        cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    train_loader(data)
    assert data.documents("train")[0].text == "A text of its own."


def test_using_data_before_setup_is_refused(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ConfigError, match=r"call setup\(\) first"):
        module(tmp_path, byte_tokenizer).train_dataloader()
    data = module(tmp_path, byte_tokenizer)
    data.setup("test")
    with pytest.raises(InputError, match="test split is empty"):
        data.test_dataloader()
