"""Terms of one segment: which of them a decoder can give, and training with the one that reconstructs texts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from lightning_modules.memory_module import MemoryModule
from r3mem import Backbone, ConfigError
from r3mem.compressors import InContextAutoencoder
from r3mem.reversible import AutoregressiveDecoder, PositionBinding, ReversibleStack
from tests.lightning_modules.batches import mean_of, objective
from tests.tiny_models import RATIO, WIDTH

Make = Callable[..., MemoryModule]


@pytest.fixture
def module(tiny_backbone: Callable[..., Backbone]) -> Make:
    def make(reversible: bool = False, **weights: float) -> MemoryModule:
        torch.manual_seed(0)
        words = ReversibleStack([PositionBinding(WIDTH, RATIO, 0.5)])
        decoder = words if reversible else AutoregressiveDecoder(RATIO)
        return MemoryModule(
            tiny_backbone(), InContextAutoencoder(WIDTH, RATIO), decoder, objective=objective(**weights)
        )

    return make


@pytest.mark.parametrize("term", ["backward", "cycle", "residual"])
def test_terms_of_streams_need_streams(module: Make, term: str) -> None:
    with pytest.raises(
        ConfigError, match=f"weight for {term}, but AutoregressiveDecoder.*add r3mem.objectives.Autoencode"
    ):
        module(**{term: 0.5, "forward": 1.0})
    assert module(reversible=True, **{term: 0.5}).objective.weights(0) == {term: 0.5}


@pytest.mark.parametrize(
    "weights", [{"autoencode": 1.0}, {"forward": 1.0}, {"kl": 1.0, "query": 0.5, "autoencode": 0.5}]
)
def test_any_mix_of_the_others_is_trained(module: Make, weights: dict[str, float]) -> None:
    made = module(**weights)
    ids_BTN = torch.randint(0, 256, (2, 2, 16), generator=torch.Generator().manual_seed(0))
    batch = {"ids_BTN": ids_BTN, "lengths_BT": torch.full((2, 2), 16), "reset_B": torch.ones(2).bool()}
    sums, _ = made.sums(batch)
    terms = {name: mean_of(parts) for name, parts in sums.items()}
    assert set(terms) == set(weights) and all(value > 0 for value in terms.values())
    sum(terms.values()).backward()
    assert made.model.compressor.initial_SD.grad.abs().sum() > 0
    assert (made.model.compressor.spell_D.grad is not None) is ("autoencode" in weights)
    if "autoencode" in weights:
        # All 16 tokens of each segment, the first one too.
        assert sum(int(count) for _, count in sums["autoencode"]) == 2 * 2 * 16


def test_validation_recalls_by_a_free_run(module: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = module(autoencode=1.0).eval()
    monkeypatch.setattr(made, "log", lambda *a, **k: None)
    rows = torch.randint(0, 256, (1, 1, 16), generator=torch.Generator().manual_seed(0))
    batch = {"ids_BTN": rows, "lengths_BT": torch.full((1, 1), 16), "reset_B": torch.ones(1).bool()}
    with torch.no_grad():
        made.validation_step(batch, 0)
        wrong = made.model.retain(rows[0, 0].tolist(), precision="float32").wrong[0]
    accuracy = next(m for name, m in made.evaluation.named(False).items() if "accuracy" in name)
    assert wrong > 0 and float(accuracy.compute()) == pytest.approx(1 - wrong / 16)
