"""The settings that a checkpoint was trained with: what contradicts them is refused by name."""

from __future__ import annotations

from typing import Any

from r3mem.errors import ConfigError, FingerprintError
from r3mem.model import R3Mem
from r3mem.plain_data.components import identity

PARTS = ("backbone", "compressor", "decoder")
# Which weights these give is told by the fingerprint; the same ones may lie elsewhere on another machine.
BY_FINGERPRINT = {"name", "dtype", "load_in_4bit"}
# How the same numbers are computed, or how training disturbs them: free to change from run to run.
FREE = {"attn_implementation", "gradient_checkpointing", "pack", "lora_dropout"}


def settings_of(model: R3Mem) -> dict[str, Any]:
    """What a model is made of, as plain data; None in the place of a part that cannot be described.

    The hierarchy is left out: it decides how documents are cut, not what was trained.

    Args:
        model: At its own ratio.
    """
    found: dict[str, Any] = {}
    for part in PARTS:
        try:
            found[part] = identity(getattr(model, part))
        except ConfigError:
            found[part] = None
    if found["backbone"] is not None:
        kept = found["backbone"]["init_args"].items()
        found["backbone"]["init_args"] = {k: v for k, v in kept if k not in BY_FINGERPRINT | FREE}
    return found


def check_settings(saved: dict[str, Any] | None, here: dict[str, Any]) -> None:
    """Refuse a model that is made of other parts than the checkpoint's, or whose parts are set otherwise.

    Args:
        saved: What `settings_of` gave when the checkpoint was saved; None for those of before it was kept.
        here: What it gives now.

    Raises:
        FingerprintError: Names every setting that differs, with both values.
    """
    differing = [
        f"model.{part}{line}"
        for part in PARTS
        if saved is not None and saved.get(part) is not None and here[part] is not None
        for line in _differences(saved[part], here[part])
    ]
    if differing:
        raise FingerprintError(
            f"the settings contradict the checkpoint: {'; '.join(differing)}. Give those of the checkpoint, which are "
            "in its run's config.yaml; `r3mem export` makes it a model, whose ratio Python may change (set_ratio)"
        )


def _differences(saved: Any, here: Any, where: str = "") -> list[str]:
    if isinstance(saved, dict) and isinstance(here, dict):
        if saved.get("class_path") != here.get("class_path"):
            saved, here = saved.get("class_path", saved), here.get("class_path", here)
        else:
            # Settings that only one side knows are of another version of the class, whose weights tell.
            return [line for k in saved if k in here for line in _differences(saved[k], here[k], f"{where}.{k}")]
    if isinstance(saved, list) and isinstance(here, list) and len(saved) == len(here):
        pairs = enumerate(zip(saved, here, strict=True))
        return [line for i, (one, other) in pairs for line in _differences(one, other, f"{where}[{i}]")]
    return [] if saved == here else [f"{where} is {here} here, {saved} in the checkpoint"]
