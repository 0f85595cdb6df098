"""``r3mem export CKPT --out DIR``: a checkpoint as the folder that ``R3Mem.from_pretrained`` loads."""

from __future__ import annotations

import pydoc
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser

from lightning_modules.memory_module import MemoryModule
from lightning_modules.run_settings import SETTINGS
from lightning_modules.whole_checkpoints import read_whole
from r3mem.errors import ConfigError, InputError
from r3mem.plain_data.components import of_this_version


def export(checkpoint: Path, out: Path, config: Path | None = None) -> None:
    """Write what a checkpoint holds as a model; checkpoints of every strategy are alike.

    Args:
        checkpoint: The file.
        out: The folder to write.
        config: Settings of the run; None finds ``config.yaml``, which every run writes, beside the checkpoint or in
            the folder above it.

    Raises:
        InputError: A file is missing, or not what it should be.
        ConfigError: The settings are not those of a run.
        FingerprintError: The checkpoint is of another version, backbone or model than the settings say.
    """
    saved = _read(checkpoint)
    module = _build(_find(checkpoint) if config is None else config)
    module.on_load_checkpoint(saved)
    module.model.save_pretrained(out)


def _read(path: Path) -> dict[str, Any]:
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the checkpoint itself, such as {path / 'last.ckpt'}")
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a checkpoint that a run saved")
    return read_whole(path, ("state_dict",))


def _find(checkpoint: Path) -> Path:
    folder = checkpoint.resolve().parent
    for path in (folder / SETTINGS, folder.parent / SETTINGS):
        if path.is_file():
            return path
    raise InputError(f"no {SETTINGS} in {folder} or above it: give the run's settings with --config")


def _build(path: Path) -> MemoryModule:
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the {SETTINGS} that the run wrote")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML ({type(error).__name__})") from error
    if not isinstance(settings, dict) or "model" not in settings:
        raise ConfigError(f"{path} has no model: give the {SETTINGS} that the run wrote")
    given = _of_this_version(settings)
    if isinstance(given["model"], dict):
        # What only training reads is not built: neither terms of the objective nor the weights that it began with.
        kept = of_this_version(MemoryModule, given["model"])
        given["model"] = {key: value for key, value in kept.items() if key not in ("objective", "start_from")}
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(MemoryModule, "model")
    parser.add_subclass_arguments(LightningDataModule, "data", required=False)
    try:
        parsed = parser.parse_object({key: given[key] for key in ("model", "data") if key in given})
    except Exception as error:  # jsonargparse lets through what constructors' types raise.
        raise ConfigError(f"{path} does not describe a model: {' '.join(str(error).split())}") from error
    made = parser.instantiate(parsed)
    module: MemoryModule = made.model
    # As in a run: with no hierarchy set, segments are cut as the data module does.
    module.take_over(made.get("data"))
    return module


def _of_this_version(settings: Any) -> Any:
    """Settings that an earlier version wrote, which names every argument, less what this one no longer has.

    Raises:
        ConfigError: What it no longer has was in use.
    """
    if isinstance(settings, list):
        return [_of_this_version(item) for item in settings]
    if not isinstance(settings, dict):
        return settings
    made = {key: _of_this_version(value) for key, value in settings.items()}
    path, arguments = made.get("class_path"), made.get("init_args")
    if isinstance(path, str) and isinstance(arguments, dict):
        try:
            cls = pydoc.locate(path)
        except pydoc.ErrorDuringImport:
            cls = None  # The parser says what is wrong with it.
        if isinstance(cls, type):
            made["init_args"] = of_this_version(cls, arguments)
    return made
