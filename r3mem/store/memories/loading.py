"""A model by its name."""

from __future__ import annotations

from pathlib import Path

from r3mem.backbone import Backbone
from r3mem.errors import InputError
from r3mem.model import R3Mem


def load_model(name: str | None) -> R3Mem:
    """The model of a name, ready to use.

    Args:
        name: A folder that ``save_pretrained`` wrote, its hub id, ``r3mem:smollm2-135m``, or the folder or hub id of
            a language model, which is taken as it is; None for the default.

    Raises:
        InputError: There is none.
    """
    if name is None:
        return R3Mem().eval()
    folder = Path(name).expanduser()
    if folder.is_dir() and not (folder / "r3mem.json").is_file():
        return R3Mem(Backbone(str(folder), lora_rank=0)).eval()
    try:
        return R3Mem.from_pretrained(name)
    except InputError as error:
        if folder.is_dir() or name.startswith("r3mem:"):
            raise
        try:
            return R3Mem(Backbone(name, lora_rank=0)).eval()
        except InputError:
            raise error from None
