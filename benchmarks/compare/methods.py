"""The methods that are compared: the files of ``configs/model/``, made to fit any backbone.

A method is a file there, and its name is the file's. The file's ``group`` says what it is to a comparison: ``ours``,
``peer`` for another system's way, ``control`` for what a way has to beat; ``null`` takes no part.
"""

from __future__ import annotations

import inspect
import pydoc
from functools import cache
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from benchmarks.parts.harness import ROOT
from r3mem import Backbone, ConfigError, InputError, R3Mem
from r3mem.compressors import Compressor
from r3mem.compressors.parts.hidden_state import HiddenStateCompressor
from r3mem.hierarchy import Flat
from r3mem.memory import slots_needed
from r3mem.objectives import Term
from r3mem.plain_data.components import build
from r3mem.reversible import Decoder

FOLDER = ROOT / "configs" / "model"
# The reader that sees the raw text: the upper reference, no file.
FULL_TEXT = "full_text"
GROUPS = ("ours", "peer", "control")
REFERENCE = "reference"
# Layers in the files are those of a backbone of this depth (SmolLM2-135M).
DEPTH = 30


def methods() -> list[str]:
    """Names of all methods, in alphabetical order."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def compared() -> list[str]:
    """Names of the methods that take part in a comparison, and of the reference."""
    return [*(name for name in methods() if group_of(name) is not None), FULL_TEXT]


def group_of(name: str) -> str | None:
    """One of ``GROUPS``, as the method's file says, or ``REFERENCE``; None for what is not compared.

    Raises:
        InputError: No such method.
        ConfigError: The file does not say it, or says another word.
    """
    if name == FULL_TEXT:
        return REFERENCE
    settings = _settings(name)
    if "group" not in settings or settings.group not in (*GROUPS, None):
        said = f"group is {settings.group!r}" if "group" in settings else "it does not say what it is to a comparison"
        raise ConfigError(f"{FOLDER / name}.yaml: {said}; write group: {', '.join(GROUPS)} or null")
    return cast("str | None", settings.group)


def class_of(name: str) -> type[Compressor]:
    """The compressor's class.

    Raises:
        ConfigError: It cannot be imported, or is no compressor.
    """
    path = _settings(name).model.compressor.class_path
    found = pydoc.locate(path)
    if not (inspect.isclass(found) and issubclass(found, Compressor)):
        raise ConfigError(f"{FOLDER / name}.yaml: {path} is no compressor; correct its class_path")
    return cast(type[Compressor], found)


def has_maps(name: str) -> bool:
    """Whether a method writes and reads hidden states, through a trainable map on either side."""
    return issubclass(class_of(name), HiddenStateCompressor)


def settings_of(name: str, part: str) -> dict[str, Any]:
    """What a method's file says of a part of the model, such as ``backbone`` or ``objective``; empty if nothing."""
    found = OmegaConf.to_container(_settings(name), resolve=True)
    return dict(cast(dict[str, Any], found)["model"].get(part) or {})


def weight_of(name: str, term: type[Term]) -> float:
    """The weight that a method's file gives to a term of the objective; 0 where it does not name it."""
    listed = settings_of(name, "objective").get("terms", [])
    own = [given for given in listed if given["class_path"].rpartition(".")[2] == term.__name__]
    return sum(float(given.get("init_args", {}).get("weight", 1.0)) for given in own)


def compressor_of(
    name: str, backbone: Backbone, ratio: int, longest: int = 512, most: int | None = None, **options: Any
) -> Compressor:
    """The compressor of a method.

    Args:
        name: One of :func:`methods`.
        backbone: Its width and depth replace those of the file: layers keep their share of the depth.
        ratio: Text tokens per virtual token; of a model that is used at several, the smallest.
        longest: Tokens of the longest segment; a method that learns a vector for each slot has enough of them.
        most: Slots that a state which accumulates holds at most; None leaves the file's.
        **options: Replace arguments of the file; None leaves the file's.

    Raises:
        InputError: No such method.
        ConfigError: The class refuses its arguments.
    """
    return cast(Compressor, build(_parts(name, backbone, ratio, options, longest, most)["compressor"], Compressor))


def decoder_of(name: str, backbone: Backbone, ratio: int) -> Decoder:
    """What stands between a method's text and memory, as its file says: words in the slots are ours alone.

    Args:
        name: One of :func:`methods`.
        backbone: As in :func:`compressor_of`.
        ratio: As in :func:`compressor_of`.
    """
    return cast(Decoder, build(_parts(name, backbone, ratio, {})["decoder"], Decoder))


def model_of(name: str, backbone: Backbone, ratio: int, longest: int = 512, **options: Any) -> R3Mem:
    """A whole model of a method, untrained, in segments of ``longest`` tokens; see :func:`compressor_of`."""
    made = compressor_of(name, backbone, ratio, longest, **options)
    return R3Mem(backbone, made, decoder_of(name, backbone, ratio), Flat(longest))


def _file(name: str) -> Path:
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise InputError(f"no method {name!r}: give one of {', '.join(methods())}")
    return path


@cache
def _settings(name: str) -> DictConfig:
    return cast(DictConfig, OmegaConf.load(_file(name)))


def _parts(
    name: str, backbone: Backbone, ratio: int, options: dict[str, Any], longest: int = 512, most: int | None = None
) -> dict[str, Any]:
    """Compressor and decoder of the file, as plain data; what refers to the width or the ratio follows them."""
    settings = _settings(name).copy()
    arguments = settings.model.compressor.setdefault("init_args", {})
    taken = inspect.signature(class_of(name)).parameters
    depth = len(backbone.layers)
    fitting: dict[str, Any] = {"width": backbone.width, "ratio": ratio, "slots": slots_needed(longest, ratio)}
    if most is not None:
        fitting |= {"most": most, "max_slots": most}
    for key in ("write_layer", "read_layer"):
        if key in arguments:
            # One layer above the first at least, where the file has one: slots that are written have to attend.
            least = min(int(arguments[key]), 2 if key == "write_layer" else 1)
            fitting[key] = max(least, round(int(arguments[key]) * depth / DEPTH))
    given = {key: value for key, value in options.items() if value is not None}
    for key, value in {**{k: v for k, v in fitting.items() if k in taken}, **given}.items():
        arguments[key] = value
    parts = cast(dict[str, Any], OmegaConf.to_container(settings, resolve=True))["model"]
    return {part: _described(parts[part]) for part in ("compressor", "decoder")}


def _described(value: Any) -> Any:
    """A part as :func:`r3mem.plain_data.components.build` takes it: with arguments even where there are none."""
    if isinstance(value, list):
        return [_described(item) for item in value]
    if not isinstance(value, dict):
        return value
    described = {key: _described(item) for key, item in value.items()}
    return {"init_args": {}, **described} if "class_path" in described else described
