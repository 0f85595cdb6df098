"""What a model and its data hand each other: typed, with defaults that are told, and refused where it is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from lightning.pytorch import LightningDataModule
from transformers import PreTrainedTokenizerFast

from r3mem.errors import ConfigError
from r3mem.hierarchy import Flat
from r3mem.model.run_contract import DataSide, HasDataSide, HasModelSide, ModelSide, data_side_of, model_side_of
from r3mem.plain_data.query_template import TEMPLATE, QueryTemplate


def test_only_those_that_say_so_hand_something_over(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    class Data(LightningDataModule, HasDataSide):
        def data_side(self) -> DataSide:
            return DataSide(7, [1, 2])

    class Model(HasModelSide):
        def model_side(self) -> ModelSide:
            return ModelSide(byte_tokenizer)

    class Alike(LightningDataModule):
        segment_tokens = 7

    assert data_side_of(Data()) == DataSide(7, [1, 2])
    assert data_side_of(Alike()) is data_side_of(None) is model_side_of(None) is model_side_of(Alike()) is None
    side = model_side_of(Model())
    assert side is not None and side.tokenizer is byte_tokenizer
    assert side.template.template == TEMPLATE and side.hierarchy is None


def test_what_is_handed_over_is_of_its_type() -> None:
    class Data(HasDataSide):
        def data_side(self) -> Any:
            return {"segment_tokens": 8}

    class Model(HasModelSide):
        def model_side(self) -> Any:
            return None

    with pytest.raises(ConfigError, match=r"Data\.data_side gives dict: let it give a DataSide"):
        data_side_of(Data())
    with pytest.raises(ConfigError, match=r"Model\.model_side gives NoneType: let it give a ModelSide"):
        model_side_of(Model())


def test_impossible_sides_are_refused(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    for wrong in (0, -1, 2.5, "8", True):
        with pytest.raises(ConfigError, match="segment_tokens"):
            DataSide(wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="calibration_ids is empty: give token ids"):
        DataSide(8, [])
    with pytest.raises(ConfigError, match="tokenizer of a model side is str: give a PreTrainedTokenizerBase"):
        ModelSide("gpt2")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="template of a model side is str: give a QueryTemplate"):
        ModelSide(byte_tokenizer, TEMPLATE)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="hierarchy of a model side is int"):
        ModelSide(byte_tokenizer, QueryTemplate(), 8)  # type: ignore[arg-type]
    assert ModelSide(byte_tokenizer, hierarchy=Flat(8)).hierarchy.segment_tokens == 8  # type: ignore[union-attr]
