"""A memory written by other weights: recalled where that is exact, read with a warning, never gone on from."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from r3mem import Backbone, ConfigError, FingerprintError, InputError, Memory, R3Mem, Segments
from r3mem.compressors import VirtualTokens
from r3mem.hierarchy import BlankLines, Level, Refined
from r3mem.model import fingerprint, saving
from r3mem.model.fingerprint import WeightNames
from r3mem.objectives import forward_nll
from r3mem.reversible import PositionBinding, ReversibleStack
from tests.tiny_models import TEXT, WIDTH, awaken_adapters, tiny_model, tiny_r3mem

Make = Callable[..., R3Mem]


@pytest.fixture
def make(tiny_backbone: Callable[..., Backbone]) -> Make:
    """A model whose compressor has the same weights each time."""

    def made(seed: int | None = None, **options: Any) -> R3Mem:
        torch.manual_seed(0)
        model = tiny_r3mem(tiny_backbone(**options)).eval()
        if seed is not None:
            awaken_adapters(model.backbone, seed)
        return model

    return made


def silent(use: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return use()


def train(model: R3Mem, steps: int, rate: float = 0.05) -> None:
    """Some steps of an optimiser on what the adapters and the compressor make of a text."""
    text = Segments.pad([model.tokens(TEXT)[:16]])
    model.train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    for _ in range(steps):
        scores = model.step(text, model.step(text).state).scores
        assert scores is not None
        total, count = forward_nll(scores, text, text.lengths_B > 0)
        (total / count).backward()
        optimiser.step()
        optimiser.zero_grad()
    model.eval()


def test_trained_on_between_writing_and_reading(make: Make, tmp_path: Path) -> None:
    """Case 13, first scenario: ten steps, a memory, a hundred more steps."""
    model = make()
    train(model, 10)
    memory = model.retain(TEXT)
    memory.save(tmp_path / "memory")
    silent(lambda: model.generate("a", Memory.load(tmp_path / "memory"), max_new_tokens=1))
    before = model.fingerprint
    train(model, 100)
    loaded = Memory.load(tmp_path / "memory")
    assert loaded.fingerprint == before
    assert {part for part, name in model.fingerprint.items() if name != before[part]} == {"adapters", "weights"}
    assert silent(lambda: model.recall(loaded)) == TEXT
    says = "written with other adapters and weights of the compressor than those that read it now.*retain it again"
    with pytest.warns(UserWarning, match=says):
        model.state(loaded)
    with pytest.warns(UserWarning, match=says):
        model.generate("a", loaded, max_new_tokens=1)
    with pytest.raises(FingerprintError, match="other adapters, weights"):
        model.retain("and on", loaded)
    rebuilt = model.retain(model.recall(loaded))
    silent(lambda: model.state(rebuilt))


def test_adapters_that_do_nothing_are_none(make: Make) -> None:
    untrained, without, trained = make(), make(lora_rank=0), make(seed=5)
    assert untrained.fingerprint == without.fingerprint and untrained.fingerprint["adapters"] == "none"
    assert trained.fingerprint["adapters"] != "none"
    memory = without.retain(TEXT)
    silent(lambda: untrained.state(memory))
    silent(lambda: untrained.retain("and on", memory))
    with pytest.warns(UserWarning, match="written with other adapters than"):
        trained.state(memory)
    with torch.no_grad():
        for name, parameter in trained.backbone.adapter_parameters():
            if "lora_B" in name:
                parameter.zero_()
    assert trained.fingerprint == without.fingerprint


def test_one_adapter_of_many_counts_and_so_does_its_scale(make: Make) -> None:
    model = make()
    name, parameter = next((n, p) for n, p in model.backbone.adapter_parameters() if "lora_B" in n)
    with torch.no_grad():
        parameter[0, 0] = 1e-6
    one = model.fingerprint["adapters"]
    with torch.no_grad():
        dict(model.backbone.adapter_parameters())[name.replace("lora_B", "lora_A")][0, 0] += 1
    assert len({"none", one, model.fingerprint["adapters"]}) == 3
    first, second = (make(seed=5, lora_alpha=alpha) for alpha in (8.0, 16.0))
    assert first.fingerprint["adapters"] != second.fingerprint["adapters"]


def _optimiser(model: R3Mem) -> None:
    parameters = [p for _, p in model.backbone.adapter_parameters()]
    for p in parameters:
        p.grad = torch.ones_like(p)
    torch.optim.SGD(parameters, lr=0.1).step()


def _in_place(model: R3Mem) -> None:
    with torch.no_grad():
        next(p for n, p in model.backbone.adapter_parameters() if "lora_B" in n).mul_(2)


def _in_inference_mode(model: R3Mem) -> None:
    with torch.inference_mode():
        next(p for n, p in model.backbone.adapter_parameters() if "lora_B" in n).mul_(2)


def _through_data_in_training(model: R3Mem) -> None:
    """As DeepSpeed's optimisers write; PyTorch does not count it."""
    model.train()
    _ = model.fingerprint
    next(p for n, p in model.backbone.adapter_parameters() if "lora_B" in n).data.mul_(2)
    model.eval()


def _other_parameter(model: R3Mem) -> None:
    layer = next(m for m in model.backbone.modules() if hasattr(m, "lora_B")).lora_B["default"]
    layer.weight = torch.nn.Parameter(layer.weight.detach() * 2)


def _loaded(model: R3Mem) -> None:
    saving.load_own_state(model, {name: tensor * 2 for name, tensor in saving.own_state(model).items()})


@pytest.mark.parametrize(
    "change", [_optimiser, _in_place, _in_inference_mode, _through_data_in_training, _other_parameter, _loaded]
)
def test_the_name_of_the_adapters_is_never_stale(make: Make, change: Callable[[R3Mem], None]) -> None:
    model = make(seed=5)
    before = model.fingerprint["adapters"]
    assert model.fingerprint["adapters"] == before
    change(model)
    after = model.fingerprint["adapters"]
    fresh = WeightNames().of(model.backbone, model.compressor, model.level_embedding, keep=False)["adapters"]
    assert after == fresh != before


def test_the_name_of_the_weights_is_never_stale(make: Make, tiny_backbone: Callable[..., Backbone]) -> None:
    model = make()
    names = [model.fingerprint["weights"]]
    with torch.no_grad():
        for tensor in (model.compressor.write_D, next(b for _, b in model.compressor.named_buffers())):
            tensor.add_(1)
            names.append(model.fingerprint["weights"])
    assert len(set(names)) == 3
    levels = [Level("a", BlankLines(), tokens=64, ratio=2), Level("b", BlankLines(), tokens=32, ratio=2)]
    stack = ReversibleStack([PositionBinding(WIDTH, 2, share=0.5)])
    tree = R3Mem(tiny_backbone(), VirtualTokens(WIDTH, 2, write_layer=2, read_layer=1), stack, Refined(levels)).eval()
    untrained = tree.fingerprint["weights"]
    with torch.no_grad():
        tree.level_embedding.weight[1, 0] = 1.0
    assert tree.fingerprint["weights"] != untrained


def test_the_name_is_made_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    model, made = make(seed=5), list[int]()
    original = fingerprint.name_of
    monkeypatch.setattr(fingerprint, "name_of", lambda *a: made.append(1) or original(*a))
    memory = model.retain(TEXT * 4)
    for _ in range(3):
        model.state(memory)
    assert len(memory.digests) > 3 and len(made) == 2, "of the adapters and of the compressor's weights, once each"
    copied = copy.deepcopy(model)
    _in_place(copied)
    assert copied.fingerprint["adapters"] != model.fingerprint["adapters"] == memory.fingerprint["adapters"]


def test_a_memory_of_an_earlier_version_is_not_gone_on_from(make: Make) -> None:
    model = make()
    memory = model.retain(TEXT)
    memory.fingerprint = {part: memory.fingerprint[part] for part in ("backbone", "stack", "prior", "compressor")}
    assert silent(lambda: model.recall(memory)) == TEXT
    silent(lambda: model.state(memory))
    with pytest.raises(FingerprintError, match=r"does not say which adapters wrote it.*recall its text"):
        model.retain("and on", memory)


def test_a_saved_model_reads_its_memories_without_a_word(backbone_folder: Path, tmp_path: Path) -> None:
    model = tiny_r3mem(Backbone(str(backbone_folder), dtype="float32", lora_rank=2)).eval()
    awaken_adapters(model.backbone)
    memory = model.retain(TEXT)
    model.save_pretrained(tmp_path / "model")
    loaded = R3Mem.from_pretrained(tmp_path / "model")
    silent(lambda: loaded.state(memory))
    assert silent(lambda: loaded.recall(loaded.retain("and on", memory))) == TEXT + "and on"


class TestPrecisionOfASavedModel:
    """``from_pretrained(dtype=...)``."""

    @pytest.fixture
    def folder(self, backbone_folder: Path, tmp_path: Path) -> Path:
        model = tiny_r3mem(Backbone(str(backbone_folder), dtype="bfloat16", lora_rank=2))
        awaken_adapters(model.backbone)
        model.save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    def test_finer_than_that_of_training(self, folder: Path) -> None:
        coarse, fine = R3Mem.from_pretrained(folder), R3Mem.from_pretrained(folder, dtype="float32")
        assert (coarse.backbone.dtype, fine.backbone.dtype) == ("bfloat16", "float32")
        theirs = saving.own_state(coarse)
        assert all(torch.equal(theirs[name], tensor) for name, tensor in saving.own_state(fine).items())
        text = Segments.pad([fine.tokens(TEXT)])
        apart = (coarse.likelihood(text).float() - fine.likelihood(text)).abs().mean()
        assert 0 < apart < 0.05 * fine.likelihood(text).std()
        assert fine.recall(fine.retain(TEXT)) == TEXT
        assert fine.recall(coarse.retain(TEXT)) == TEXT

    def test_of_another_backbone(self, folder: Path, tmp_path: Path, byte_tokenizer: Any) -> None:
        tiny_model(seed=1).save_pretrained(tmp_path / "other")
        byte_tokenizer.save_pretrained(tmp_path / "other")
        with pytest.raises(FingerprintError, match=r"in bfloat16, but .* in float32 is .*leave dtype out"):
            R3Mem.from_pretrained(folder, dtype="float32", name=str(tmp_path / "other"))

    def test_coarser_than_that_of_training(self, backbone_folder: Path, tmp_path: Path) -> None:
        fine = tiny_r3mem(Backbone(str(backbone_folder), dtype="float32", lora_rank=2))
        fine.save_pretrained(tmp_path / "fine")
        coarse = R3Mem.from_pretrained(tmp_path / "fine", dtype="bfloat16")
        assert coarse.recall(fine.retain(TEXT)) == TEXT
        with pytest.raises(FingerprintError, match=r"trained on backbone .* in float32, but .* in float16 is"):
            R3Mem.from_pretrained(tmp_path / "fine", dtype="float16")

    def test_an_option_that_the_backbone_does_not_have(self, folder: Path) -> None:
        with pytest.raises(ConfigError, match="the backbone takes no device_map, precision: what can be replaced is"):
            R3Mem.from_pretrained(folder, precision="float32", device_map="auto")
        with pytest.raises(ConfigError, match="dtype 'float99' is unknown"):
            R3Mem.from_pretrained(folder, dtype="float99")


def test_parts_of_different_models_are_not_joined(make: Make) -> None:
    first, second = make(seed=5).retain(TEXT), make(seed=6).retain(TEXT)
    with pytest.raises(InputError, match="differ in ratio, precision or model"):
        Memory.join([first, second])


@pytest.mark.slow
def test_the_shipped_adapters_and_none() -> None:
    """On the real model: its own memories without a word, those of the model alone with one; recall is exact."""
    adapted, alone = (
        R3Mem.from_pretrained("r3mem:smollm2-135m", dtype="float32"),
        R3Mem(Backbone(dtype="float32", lora_rank=0)),
    )
    text = "The north gate opens with the code 4471, and at night with none."
    memory = alone.retain(text)
    assert alone.fingerprint["adapters"] == "none" != adapted.fingerprint["adapters"]
    assert silent(lambda: adapted.recall(memory)) == text
    with pytest.warns(UserWarning, match="written with other adapters"):
        adapted.state(memory)
    own = adapted.retain(text)
    silent(lambda: adapted.state(own))
