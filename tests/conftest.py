"""Fixtures that several packages' tests share. Everything is built here: no network, no files outside ``tmp_path``."""

from __future__ import annotations

import os

# Tensors here are tiny: threads cost more than they bring, and far more where something else runs beside the tests. Set
# before torch is imported, and for the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from r3mem import Backbone
from tests.tiny_models import awaken_adapters, tiny_model

pytest_plugins = ["pytester"]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """What a test and its fixtures draw is their own, whichever tests ran before them in their process."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte (256 of them), then ``<eos>`` 256 and ``<pad>`` 257; decoding gives the text back exactly."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")


@pytest.fixture(scope="session")
def tiny_backbone(byte_tokenizer: PreTrainedTokenizerFast) -> Callable[..., Backbone]:
    """Makes a new backbone around a random model: ``tiny_backbone(family="llama", seed=0, lora_rank=4)``."""

    def make(family: str = "llama", seed: int = 0, **options: object) -> Backbone:
        return Backbone.wrap(
            tiny_model(family, seed), byte_tokenizer, name=f"tiny-{family}", **{"lora_rank": 4, **options}
        )

    return make


@pytest.fixture
def backbone(tiny_backbone: Callable[..., Backbone]) -> Backbone:
    """The random Llama with adapters that do something; files that need another one have their own."""
    made = tiny_backbone().eval()
    awaken_adapters(made)
    return made


@pytest.fixture(scope="session")
def backbone_folder(tmp_path_factory: pytest.TempPathFactory, byte_tokenizer: PreTrainedTokenizerFast) -> Path:
    """The random Llama and its tokenizer on disk."""
    folder = tmp_path_factory.mktemp("backbone") / "tiny-llama"
    tiny_model().save_pretrained(folder)
    byte_tokenizer.save_pretrained(folder)
    return folder
