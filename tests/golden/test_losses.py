"""What training logs, number for number, as it was before the terms became a seam of their own.

After a change that is meant to change them, ``R3MEM_WRITE_GOLDEN=1`` writes them anew instead of comparing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.cli import main
from lightning_modules.memory_module import MemoryModule
from r3mem import Backbone
from r3mem.compressors import VirtualTokens
from r3mem.hierarchy import FixedWindows, Level, Refined
from r3mem.reversible import AttentionCoupling, PositionBinding, ReversibleStack
from tests.lightning_modules.batches import TERMS as OF_STREAMS
from tests.lightning_modules.batches import Batch, batch, candidates, fit, objective, pairs
from tests.tiny_models import WIDTH, awaken_adapters, awaken_coupling
from tests.tiny_run import CONFIGS, config, logged, tiny, write_documents

GOLDEN = Path(__file__).with_name("losses.json")
# Machines add up in other orders; a change of what is computed, or of what is drawn, shows in the third digit.
TOLERANCE = 1e-5
MODELS = sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml"))
OF_PAIRS = ("forward", "autoencode", "backward", "cycle", "residual", "expand", "query", "contrast")
TERMS = [
    *(("streams", (name,), False) for name in OF_STREAMS),
    *(("streams", OF_STREAMS, replay) for replay in (False, True)),
    *(("pairs", (name,), False) for name in OF_PAIRS),
    *(("pairs", OF_PAIRS, replay) for replay in (False, True)),
]


def key_of(kind: str, names: tuple[str, ...], replay: bool) -> str:
    return f"{kind}/{names[0] if len(names) == 1 else 'all'}{'-replayed' if replay else ''}"


def losses_of_model(name: str, backbone_folder: Path, folder: Path) -> dict[str, list[float]]:
    """What three steps of a shipped file log."""
    shipped = (CONFIGS / f"model/{name}.yaml").read_text(encoding="utf-8")
    sizes = tiny(backbone_folder, write_documents(folder, words=60), folder / "run")
    for layer in ("write_layer", "read_layer"):
        sizes = [size for size in sizes if layer in shipped or f".{layer}=" not in size]
    sizes += ["--model.ratios=[2,4]"] if "  ratios: " in shipped else []
    steps = ["--trainer.max_steps=3", "--trainer.limit_val_batches=0", "--trainer.num_sanity_val_steps=0"]
    place = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.strategy=auto", "--model.calibrate=false"]
    main(["fit", *config(f"model/{name}", "data/python_reference", "trainer/cpu"), *sizes, *steps, *place])
    header = (folder / "run" / "metrics.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    found = {key: logged(folder / "run", key) for key in sorted(header) if _is_term(key)}
    return {key: [float(value) for value in steps.values()] for key, steps in found.items()}


def losses_of_terms(
    backbone: Backbone, folder: Path, kind: str, names: tuple[str, ...], replay: bool
) -> dict[str, list[float]]:
    """What three steps of a small module log."""
    torch.manual_seed(0)
    awaken_adapters(backbone)
    couplings: list[Any] = [PositionBinding(WIDTH, 4, share=0.25)]
    if kind == "streams":  # It is tied to one ratio, and the levels of pairs have two.
        couplings.append(awaken_coupling(AttentionCoupling(WIDTH, 4, dim=8, heads=2)))
    levels = [Level("a", FixedWindows(), 16, ratio=8), Level("b", FixedWindows(), 8, ratio=4)]
    compressor = VirtualTokens(WIDTH, 4, write_layer=2, read_layer=1)
    hierarchy = Refined(levels) if kind == "pairs" else None
    made = MemoryModule(
        backbone, compressor, ReversibleStack(couplings), hierarchy, objective(**dict.fromkeys(names, 0.5)),
        replay=replay, calibrate=False,
    )  # fmt: skip
    found: dict[str, list[float]] = {}

    def log(name: str, value: Any, **_: Any) -> None:
        found.setdefault(name, []).append(float(value)) if _is_term(name) else None

    made.log = log  # type: ignore[method-assign,assignment]
    torch.manual_seed(0)
    batches = _pairs() if kind == "pairs" else _streams()
    fit(made, folder, batches, steps=len(batches))
    return {name: found[name] for name in sorted(found)}


def _is_term(name: str) -> bool:
    kept = {f"train/{term}" for term in (*OF_STREAMS, *OF_PAIRS)}
    return name in kept or name == "train/loss"


def _streams() -> list[Batch]:
    going_on = batch(1, segments=3, lengths_BT=[[8, 5, 2], [8, 8, 8], [3, 0, 0]], reset_B=[False, True, False])
    return [batch(segments=3), going_on, batch(2, lengths_BT=[[8, 8], [7, 0], [8, 1]])]


def _pairs() -> list[Batch]:
    chain = pairs() | {"level_T": torch.tensor([0, 0])}
    return [pairs(), candidates(), chain]


def check(found: dict[str, list[float]], key: str) -> None:
    every = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}
    if os.environ.get("R3MEM_WRITE_GOLDEN"):
        lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted((every | {key: found}).items())]
        GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        return
    expected = every[key]
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=TOLERANCE, abs=1e-7), name


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore:LightningCLI's args parameter", "ignore:.*split is empty")
def test_shipped_models(name: str, backbone_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R3MEM_CACHE", str(tmp_path / "cache"))
    check(losses_of_model(name, backbone_folder, tmp_path), f"model/{name}")


@pytest.mark.parametrize("kind, names, replay", TERMS, ids=[key_of(*term) for term in TERMS])
def test_terms(
    kind: str, names: tuple[str, ...], replay: bool, tiny_backbone: Callable[..., Backbone], tmp_path: Path
) -> None:
    found = losses_of_terms(tiny_backbone(lora_dropout=0.1), tmp_path, kind, names, replay)
    check(found, key_of(kind, names, replay))
