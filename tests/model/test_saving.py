"""Models on disk and on the hub."""

from __future__ import annotations

import json
import pydoc_data.topics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from r3mem import Backbone, ConfigError, FingerprintError, InputError, R3Mem, Segments
from r3mem.compressors import VirtualTokens
from r3mem.hierarchy import Flat
from r3mem.memory.states import joined
from r3mem.objectives import forward_nll
from r3mem.plain_data.seal import sealed
from r3mem.reversible import AttentionCoupling, PositionBinding, ReversibleStack, TransformerCoupling
from tests.tiny_models import TEXT, WIDTH, same_memory, tiny_model, tiny_r3mem


@pytest.fixture
def trained(backbone_folder: Path) -> R3Mem:
    """Every weight that is ours has another value than at the start."""
    couplings = [PositionBinding(WIDTH, 4, 0.5, seed=3), AttentionCoupling(WIDTH, 4), TransformerCoupling(WIDTH, 4)]
    model = R3Mem(
        Backbone(str(backbone_folder), dtype="float32", lora_rank=3, lora_alpha=7.5, lora_targets=["q_proj"]),
        VirtualTokens(WIDTH, 4, write_layer=2, read_layer=1, pooled=0.3),
        ReversibleStack(couplings, invertible_backward=False),
        Flat(16, query_tokens=5),
    )
    model.calibrate(segment_tokens=16, segments=16)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model


def test_round_trip(trained: R3Mem, tmp_path: Path) -> None:
    trained.save_pretrained(tmp_path / "saved")
    again = R3Mem.from_pretrained(tmp_path / "saved")
    memory = trained.retain(TEXT)
    assert same_memory(again.retain(TEXT), memory) and again.recall(memory) == TEXT
    options = {"max_new_tokens": 8, "do_sample": False}
    assert again.generate("go", memory, **options) == trained.generate("go", memory, **options)
    assert (again.backbone.lora_alpha, again.backbone.lora_targets) == (7.5, ["q_proj"])
    assert (again.hierarchy.query_tokens, again.decoder.invertible_backward) == (5, False)
    assert not again.training


def test_only_what_is_ours_is_saved(trained: R3Mem, tmp_path: Path) -> None:
    trained.save_pretrained(tmp_path / "saved")
    assert sorted(p.name for p in (tmp_path / "saved").iterdir()) == ["r3mem.json", "r3mem.safetensors"]
    assert [p.name for p in tmp_path.iterdir()] == ["saved"]
    ours = sum(p.numel() for p in trained.parameters() if p.requires_grad)
    assert (tmp_path / "saved" / "r3mem.safetensors").stat().st_size < 4 * ours + 16_000


def test_frozen_adapters_are_saved_too(trained: R3Mem, tmp_path: Path) -> None:
    trained.backbone.requires_grad_(False)
    trained.save_pretrained(tmp_path)
    assert same_memory(R3Mem.from_pretrained(tmp_path).retain(TEXT), trained.retain(TEXT))


def test_interrupted_save_leaves_the_old_model(trained: R3Mem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained.save_pretrained(tmp_path / "saved")
    before = {p.name: p.read_bytes() for p in (tmp_path / "saved").iterdir()}

    def interrupted(_: Any, file: Path, **__: Any) -> None:
        file.write_bytes(b"half of")
        raise KeyboardInterrupt

    monkeypatch.setattr("r3mem.plain_data.tensor_file.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained.save_pretrained(tmp_path / "saved")
    assert {p.name: p.read_bytes() for p in (tmp_path / "saved").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["saved"]


def test_another_backbone_is_refused(trained: R3Mem, tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    trained.save_pretrained(tmp_path / "saved")
    tiny_model(seed=1).save_pretrained(tmp_path / "other")
    byte_tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(FingerprintError, match="pass name= of the backbone it was trained on"):
        R3Mem.from_pretrained(tmp_path / "saved", name=str(tmp_path / "other"))


def test_places_without_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="folder that save_pretrained wrote"):
        R3Mem.from_pretrained(tmp_path)
    for name in ("no-such-owner/no-such-model", "/no/such/folder"):
        with pytest.raises(InputError, match="neither a folder nor a repository"):
            R3Mem.from_pretrained(name)


def test_saved_files_that_do_not_fit(trained: R3Mem, tmp_path: Path) -> None:
    trained.save_pretrained(tmp_path)
    about = json.loads((tmp_path / "r3mem.json").read_text())

    def rewrite(**changes: Any) -> None:
        (tmp_path / "r3mem.json").write_text(json.dumps(sealed({**about, **changes})))

    rewrite(format=99)
    with pytest.raises(FingerprintError, match="format 99, this version reads formats 1 to 2"):
        R3Mem.from_pretrained(tmp_path)
    rewrite(compressor={"class_path": "no.such.Compressor", "init_args": {}})
    with pytest.raises(ConfigError, match="cannot be imported"):
        R3Mem.from_pretrained(tmp_path)
    prior = {"class_path": "r3mem.reversible.language_prior.LanguageModelPrior", "init_args": {"sigma": 0.4}}
    rewrite(prior=prior)
    with pytest.raises(FingerprintError, match=r"has a LanguageModelPrior, which this version no longer has"):
        R3Mem.from_pretrained(tmp_path)
    rewrite(prior=None)
    assert R3Mem.from_pretrained(tmp_path).fingerprint == trained.fingerprint
    fewer = {**about["decoder"]["init_args"], "couplings": about["decoder"]["init_args"]["couplings"][:2]}
    rewrite(decoder={**about["decoder"], "init_args": fewer})
    with pytest.raises(FingerprintError, match="weights do not fit this model"):
        R3Mem.from_pretrained(tmp_path)


class Forgetful(VirtualTokens):
    """A user's subclass that does not keep what it was given."""

    def __init__(self, width: int, temperature: float = 1.0) -> None:
        super().__init__(width, 4, 2, 1)


def test_a_component_that_forgets_its_arguments_is_refused_when_saved(
    tiny_backbone: Callable[..., Backbone], tmp_path: Path
) -> None:
    model = R3Mem(tiny_backbone(), Forgetful(WIDTH), ReversibleStack([PositionBinding(WIDTH, 4, 0.5)]))
    with pytest.raises(ConfigError, match=r"Forgetful cannot be saved: store its argument 'temperature' as self\."):
        model.save_pretrained(tmp_path / "saved")
    assert not list(tmp_path.iterdir())


class MockHfApi:
    """Keeps what would have been sent."""

    def __init__(self) -> None:
        self.created: dict[str, Any] = {}
        self.uploaded: dict[str, list[str]] = {}

    def create_repo(self, repo_id: str, **options: Any) -> None:
        self.created[repo_id] = options

    def upload_folder(self, *, repo_id: str, folder_path: str) -> str:
        self.uploaded[repo_id] = sorted(p.name for p in Path(folder_path).iterdir())
        return f"mock-commit-of-{repo_id}"


def test_push_to_hub_with_a_mock(tiny_backbone: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch) -> None:
    mock = MockHfApi()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: mock)
    assert tiny_r3mem(tiny_backbone()).push_to_hub("me/model", private=True) == "mock-commit-of-me/model"
    assert mock.created == {"me/model": {"exist_ok": True, "private": True}}
    assert mock.uploaded == {"me/model": ["r3mem.json", "r3mem.safetensors"]}


def test_pulled_from_the_hub_with_a_mock(trained: R3Mem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained.save_pretrained(tmp_path / "snapshot")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo_id, **_: str(tmp_path / "snapshot"))
    assert R3Mem.from_pretrained("me/model").fingerprint == trained.fingerprint


def test_a_model_that_is_not_shipped_is_told_with_those_that_are() -> None:
    with pytest.raises(InputError, match="this package ships r3mem:smollm2-135m"):
        R3Mem.from_pretrained("r3mem:nothing")


@pytest.mark.slow
@torch.no_grad()
def test_the_shipped_adapters_read_a_memory_better_than_the_model_alone() -> None:
    """On Python's reference prose, of which they were not trained on a word: six places, since one tells little."""
    text = "\n".join(pydoc_data.topics.topics[name] for name in ("compound", "function", "class", "strings", "types"))
    nats = []
    for model in (R3Mem(), R3Mem.from_pretrained("r3mem:smollm2-135m")):
        model.set_ratio(16)
        ids = model.tokens(text)
        windows = [ids[at : at + 768] for at in range(0, 6 * 1536, 1536)]
        memories = model.retain([window[:512] for window in windows])
        assert [model.recall_ids(memory) for memory in memories] == [window[:512] for window in windows]
        more = Segments.pad([window[512:] for window in windows])
        state = joined([model.state(memory) for memory in memories])
        total, count = forward_nll(model.scores(more, state), more, more.lengths_B > 0)
        nats.append(float(total / count))
    assert nats[1] < nats[0]
