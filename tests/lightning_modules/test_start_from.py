"""Training that begins with the weights of a saved model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightning_modules.memory_module import MemoryModule
from r3mem import Backbone, FingerprintError, InputError
from r3mem.compressors import MeanPool, VirtualTokens
from r3mem.model import saving
from r3mem.reversible import PositionBinding, ReversibleStack
from tests.lightning_modules.batches import batch, fit
from tests.tiny_models import WIDTH


def _module(folder: Path, start_from: str | None, pooled: float = 0.5, **adapters: float) -> MemoryModule:
    backbone = Backbone(str(folder), dtype="float32", **{"lora_rank": 4, "lora_alpha": 8.0, **adapters})  # type: ignore[arg-type]
    compressor = VirtualTokens(WIDTH, 4, write_layer=2, read_layer=1, pooled=pooled)
    decoder = ReversibleStack([PositionBinding(WIDTH, 4, share=0.25)])
    return MemoryModule(backbone, compressor, decoder, start_from=start_from)


@pytest.fixture
def saved(backbone_folder: Path, tmp_path: Path) -> Path:
    """A model that has learned something."""
    made = _module(backbone_folder, None)
    fit(made, tmp_path, [batch()], steps=2)
    made.model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_training_begins_with_them_and_calibration_leaves_them_alone(saved: Path, backbone_folder: Path) -> None:
    weights = saving.read_weights(saved)
    assert any(bool(tensor.any()) for name, tensor in weights.items() if "lora_B" in name)
    begun = _module(backbone_folder, str(saved))
    for name, tensor in saving.own_state(begun.model).items():
        torch.testing.assert_close(tensor, weights[name], rtol=0, atol=0, msg=name)
    found: dict[str, torch.Tensor] = {}

    def keep(*_: object) -> None:
        found.update({name: tensor.clone() for name, tensor in saving.own_state(begun.model).items()})

    begun.on_fit_start = keep  # type: ignore[method-assign]
    fit(begun, saved.parent, [batch()], steps=1)
    assert all(torch.equal(found[name], weights[name]) for name in weights), "calibration came in between"
    assert any(not torch.equal(tensor, weights[name]) for name, tensor in saving.own_state(begun.model).items())


def test_settings_without_weights_may_differ(saved: Path, backbone_folder: Path) -> None:
    assert _module(backbone_folder, str(saved), pooled=0.0).model.compressor.pooled == 0.0


@pytest.mark.parametrize("adapters", [{"lora_rank": 2}, {"lora_alpha": 16.0}])
def test_other_adapters_are_refused_by_name(saved: Path, backbone_folder: Path, adapters: dict[str, float]) -> None:
    ((name, value),) = adapters.items()
    with pytest.raises(FingerprintError, match=f"{name} .*here {value}"):
        _module(backbone_folder, str(saved), **adapters)


def test_other_backbones_parts_and_missing_models_are_refused(
    saved: Path, backbone_folder: Path, tiny_backbone
) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match="neither a folder nor"):
        _module(backbone_folder, "nobody/nothing/here")
    with pytest.raises(FingerprintError, match="weights do not fit"):
        MemoryModule(
            Backbone(str(backbone_folder), dtype="float32", lora_rank=4, lora_alpha=8.0),
            MeanPool(WIDTH, 4), ReversibleStack([PositionBinding(WIDTH, 4, share=0.25)]), start_from=str(saved),
        )  # fmt: skip
    with pytest.raises(FingerprintError, match="was trained on backbone"):
        MemoryModule(
            tiny_backbone("gpt2"), VirtualTokens(WIDTH, 4, write_layer=2, read_layer=1),
            ReversibleStack([PositionBinding(WIDTH, 4, share=0.25)]), start_from=str(saved),
        )  # fmt: skip
