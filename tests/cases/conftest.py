"""What a first user has, at a size for tests: models around every kind of tokenizer, and runs of commands."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from lightning_modules.cli import main
from r3mem import Backbone, R3Mem
from r3mem.compressors import SelectedKeyValues
from r3mem.hierarchy import Flat
from tests.tiny_models import RATIO, SEGMENT, awaken_adapters, tiny_model, tiny_r3mem
from tests.tiny_run import config, tiny, write_documents

FILES = ("model/virtual_tokens", "data/files", "trainer/cpu")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def spaced_tokenizer() -> PreTrainedTokenizerFast:
    """As of Llama 2: a blank in front of every text, unknown characters as bytes; 0 to 2 are control tokens."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": byte + 3 for byte in range(256)}
    for piece in ["▁", *"abcdefghijklmnopqrstuvwxyz.,\n", "▁h", "▁he", "ll", "▁w"]:
        vocabulary[piece] = len(vocabulary)
    merges = [("▁", "h"), ("▁h", "e"), ("l", "l"), ("▁", "w")]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def pieces_tokenizer() -> PreTrainedTokenizerFast:
    """As of T5: a unigram model whose vocabulary holds the control strings themselves."""
    scores = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("▁", -2.0), ("▁a", -1.0)]
    scores += [(char, -3.0) for char in "abcdefghijklmnopqrstuvwxyz</>.\n"]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="session")
def chat_tokenizer(byte_tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """One token a byte, ``<eos>`` 256, ``<pad>`` 257, then control tokens of a chat; one is not marked special."""
    inner = Tokenizer.from_str(byte_tokenizer.backend_tokenizer.to_str())
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", pad_token="<pad>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.add_tokens(["<tool_call>"])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def wide_llama(vocabulary: int = 320) -> Any:
    """A random Llama with room for more tokens than bytes."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, bos_token_id=None, eos_token_id=256, initializer_range=0.2,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture
def made() -> Callable[[PreTrainedTokenizerFast], R3Mem]:
    """A model around any tokenizer of at most 320 tokens: segments of 16 tokens, ratio 4."""

    def make(tokenizer: PreTrainedTokenizerFast) -> R3Mem:
        return tiny_r3mem(Backbone.wrap(wide_llama(), tokenizer, name="tiny-wide", lora_rank=0))

    return make


@pytest.fixture
def model(byte_tokenizer: PreTrainedTokenizerFast) -> R3Mem:
    """Virtual tokens that pass through the model; a state is the last segment."""
    backbone = Backbone.wrap(tiny_model(), byte_tokenizer, name="tiny-llama", lora_rank=4)
    awaken_adapters(backbone)
    return tiny_r3mem(backbone).eval()


@pytest.fixture
def selected(byte_tokenizer: PreTrainedTokenizerFast) -> R3Mem:
    """The default way: selected keys and values; a state is of all segments, up to 24 slots."""
    backbone = Backbone.wrap(tiny_model(), byte_tokenizer, name="tiny-llama", lora_rank=0)
    compressor = SelectedKeyValues(backbone.width, ratio=RATIO, sinks=1, max_slots=24)
    return R3Mem(backbone, compressor, hierarchy=Flat(SEGMENT)).eval()


def words(backbone: Path, texts: Path, command: str, folder: Path, *more: str) -> list[str]:
    """The command line of a small run that logs to a folder, without validation."""
    return [
        *(command, *config(*FILES), *tiny(backbone, texts, folder)),
        *("--model.calibrate=false", *(["--trainer.limit_val_batches=0"] if command == "fit" else []), *more),
    ]


@pytest.fixture
def arguments(tmp_path: Path, backbone_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """``arguments("fit", "a", ...)`` for a command in a folder of that name, without validation."""
    monkeypatch.setenv("R3MEM_CACHE", str(tmp_path / "cache"))
    texts = write_documents(tmp_path)

    def make(command: str, name: str, *more: str) -> list[str]:
        return words(backbone_folder, texts, command, tmp_path / name, *more)

    return make


@pytest.fixture
def run(arguments: Callable[..., list[str]], tmp_path: Path) -> Callable[..., Path]:
    """``run("fit", "a", ...)`` runs a command in this process and gives its folder."""

    def start(command: str, name: str, *more: str) -> Path:
        main(arguments(command, name, *more))
        return tmp_path / name

    return start


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, backbone_folder: Path) -> Path:
    """The folder of a training of two steps on the documents that every test has; tests take a copy, `fitted`."""
    place = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("R3MEM_CACHE", str(place / "cache"))
        main(words(backbone_folder, write_documents(place), "fit", place / "run", "--trainer.max_steps=2"))
    return place / "run"


@pytest.fixture
def fitted(trained: Path, tmp_path: Path) -> Path:
    """What ``run("fit", "run", "--trainer.max_steps=2")`` leaves behind."""
    return Path(shutil.copytree(trained, tmp_path / "run"))
