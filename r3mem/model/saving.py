"""A trained model on disk: a description of its parts and the weights that are ours, never the backbone's."""

from __future__ import annotations

import inspect
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from r3mem.backbone import Backbone
from r3mem.compressors import Compressor
from r3mem.errors import ConfigError, FingerprintError, InputError, R3MemError
from r3mem.errors.given_paths import given_path
from r3mem.hierarchy import Hierarchy
from r3mem.model.segment_model import SegmentModel
from r3mem.model.weight_names import WEIGHT_NAMES
from r3mem.plain_data.components import build, describe, description_digest, identity
from r3mem.plain_data.scratch_folder import scratch_beside
from r3mem.plain_data.seal import RESTORE, check_sealed, read_sealed, sealed, tensors_digest
from r3mem.plain_data.tensor_file import DAMAGE, read_whole, write_tensors
from r3mem.plain_data.whole_file import writing
from r3mem.reversible import Decoder

Model = TypeVar("Model", bound=SegmentModel)

#: Format 1 had no digests.
FORMAT = 2
ABOUT, WEIGHTS = "r3mem.json", "r3mem.safetensors"
PLAIN = {"format": "pt"}
SHIPPED = "r3mem:"
#: What makes adapters compute something else from weights of the same shapes, or places.
ADAPTER = ("lora_rank", "lora_alpha", "lora_targets")


def version(model: SegmentModel) -> str:
    """Short name of all that decides which memories a model makes: another training or another hierarchy has another.

    A memory of another version can be recalled where backbone and stack are the same; what is read of it differs.
    """
    parts = {name: identity(getattr(model, name)) for name in ("compressor", "hierarchy")}
    # All weights follow by themselves.
    names = {part: name for part, name in model.fingerprint.items() if part not in WEIGHT_NAMES}
    return description_digest({"fingerprint": names, **parts}, own_state(model))


def own_state(model: SegmentModel) -> dict[str, Tensor]:
    """Everything that training changes or calibration sets: adapters, compressor, decoder, level embeddings."""
    adapters = {f"backbone.{name}": p for name, p in model.backbone.adapter_parameters()}
    parts = {
        f"{part}.{name}": tensor
        for part in ("compressor", "decoder", "level_embedding")
        if getattr(model, part) is not None
        for name, tensor in getattr(model, part).state_dict().items()
    }
    return {name: tensor.detach() for name, tensor in {**adapters, **parts}.items()}


def differing(mine: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> list[str]:
    """Names of weights that only one side has, or whose shapes differ.

    Args:
        mine: Weights by name.
        saved: Others.
    """
    return sorted(
        name
        for name in {*mine, *saved}
        if name not in mine or name not in saved or mine[name].shape != saved[name].shape
    )


def load_own_state(model: SegmentModel, state: dict[str, Tensor]) -> None:
    """Put weights of :func:`own_state` in place.

    Raises:
        FingerprintError: Weights are missing, left over or of another shape.
    """
    mine = own_state(model)
    wrong = differing(mine, state)
    if wrong:
        raise FingerprintError(
            f"{len(wrong)} weights do not fit this model (first: {wrong[0]}): they were saved from other components "
            "or by another version. Build the model with the settings it was saved with."
        )
    with torch.no_grad():
        for name, tensor in mine.items():
            tensor.copy_(state[name])


def save(model: SegmentModel, folder: Path) -> None:
    """Write a model; the folder is whole or as it was before.

    A process that is killed between the renames of the two files leaves a folder whose parts do not belong together:
    the description has the digest of its weights, and the folder is refused.

    Raises:
        InputError: The disk is full, or nothing may be written there.
    """
    tensors = {name: t.cpu().contiguous() for name, t in own_state(model).items()}
    about = {
        "format": FORMAT,
        "backbone_fingerprint": model.backbone.fingerprint,
        "backbone": describe(model.backbone),
        "compressor": describe(model.compressor),
        "decoder": describe(model.decoder),
        "hierarchy": describe(model.hierarchy),
        "weights": tensors_digest(tensors, PLAIN),
    }
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with scratch_beside(folder) as scratch:
            write_tensors(tensors, scratch / WEIGHTS, PLAIN)
            (scratch / ABOUT).write_text(json.dumps(sealed(about), indent=2) + "\n", encoding="utf-8")
            folder.mkdir(exist_ok=True)
            # Weights first: without the description next to them they are not taken for a model.
            for name in (WEIGHTS, ABOUT):
                (scratch / name).replace(folder / name)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Weights of a saved model, checked.

    Args:
        folder: What :func:`save` wrote.

    Raises:
        InputError: A file is missing or not as it was written.
    """
    return _read(folder, str(folder))[1]


def _read(folder: Path, source: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not (folder / ABOUT).is_file() or not (folder / WEIGHTS).is_file():
        raise InputError(f"{source}: no {ABOUT} and {WEIGHTS} there; give a folder that save_pretrained wrote")
    about = read_sealed(folder / ABOUT, "model")
    if about.get("format") not in range(1, FORMAT + 1):
        raise FingerprintError(
            f"{source} is of format {about.get('format')}, this version reads formats 1 to {FORMAT}: "
            "use the version that wrote it"
        )
    check_sealed(about, about["format"] > 1, f"model {folder / ABOUT}")
    return about, read_whole(folder / WEIGHTS, "model", about.get("weights"))[0]


def load(source: str | Path, cls: type[Model], backbone_options: dict[str, Any]) -> Model:
    """See :meth:`r3mem.model.R3Mem.from_pretrained`."""
    about, weights = _read(_folder_of(source), str(source))
    try:
        model = _build(about, str(source), cls, backbone_options)
    except (R3MemError, MemoryError, torch.OutOfMemoryError):
        raise
    except (OSError, *DAMAGE) as error:
        raise InputError(
            f"{source}: what {ABOUT} describes cannot be built ({type(error).__name__}: {error}): {RESTORE}, or use "
            "the version that wrote it"
        ) from error
    load_own_state(model, weights)
    return model.eval()


def begin_from(model: SegmentModel, source: str | Path) -> None:
    """Put a saved model's weights into a model of the same parts, which is then trained further.

    Scorers, ratios and all else that has no weights may differ.

    Args:
        model: On the same backbone, with adapters of the same rank, factor and places.
        source: As :func:`load` takes it.

    Raises:
        FingerprintError: Another backbone, other adapters, or weights that do not fit.
        InputError: There is no model, or a damaged one.
    """
    about, weights = _read(_folder_of(source), str(source))
    saved = about["backbone"]["init_args"]
    _check_backbone(model.backbone, about["backbone_fingerprint"], saved, str(source))
    here = describe(model.backbone)["init_args"]
    names = [name for name in ADAPTER if saved.get(name) != here[name]]
    if names:
        differing = "; ".join(f"{name} {saved.get(name)!r}, here {here[name]!r}" for name in names)
        raise FingerprintError(f"{source} has adapters of {differing}: training begins from it with its own")
    load_own_state(model, weights)


def _folder_of(source: str | Path) -> Path:
    """Folder of a saved model: shipped with this package, on this machine, or fetched."""
    folder = given_path(source, "the model")
    if str(source).startswith(SHIPPED):
        return _shipped(str(source))
    return folder if folder.is_dir() else _from_hub(str(source))


def _build(about: dict[str, Any], source: str, cls: type[Model], backbone_options: dict[str, Any]) -> Model:
    saved = about["backbone"]["init_args"]
    unknown = sorted(set(backbone_options) - set(inspect.signature(Backbone).parameters))
    if unknown:
        raise ConfigError(
            f"the backbone takes no {', '.join(unknown)}: what can be replaced is {', '.join(sorted(saved))}"
        )
    backbone: Backbone = build({**about["backbone"], "init_args": {**saved, **backbone_options}}, Backbone)
    _check_backbone(backbone, about["backbone_fingerprint"], saved, source)
    if about.get("prior") is not None:
        raise FingerprintError(
            f"{source} has a {about['prior']['class_path'].rpartition('.')[2]}, which this version no longer has: "
            "use the version that wrote it"
        )
    return cls(
        backbone,
        build(about["compressor"], Compressor),
        build(about["decoder"], Decoder),
        build(about["hierarchy"], Hierarchy),
    )


def _check_backbone(backbone: Backbone, expected: str, saved: dict[str, Any], source: str) -> None:
    """Refuse a model that the parts were not trained on. In float32 and in bfloat16 it is the same."""
    if backbone.fingerprint == expected:
        return
    bits4 = bool(saved.get("load_in_4bit", False))
    if bits4 != backbone.load_in_4bit:
        raise FingerprintError(
            f"{source} was trained on a backbone with load_in_4bit {bits4}, which {backbone.load_in_4bit} makes "
            "another: leave load_in_4bit out"
        )
    advice = "" if backbone.dtype == saved["dtype"] else " and leave dtype out"
    raise FingerprintError(
        f"{source} was trained on backbone {expected} in {saved['dtype']}, but {backbone.name} in {backbone.precision} "
        f"is {backbone.fingerprint}: pass name= of the backbone it was trained on{advice}"
    )


def push(model: SegmentModel, repo_id: str, options: dict[str, Any]) -> str:
    """See :meth:`r3mem.model.R3Mem.push_to_hub`."""
    from huggingface_hub import HfApi

    if not isinstance(repo_id, str) or not repo_id:
        raise InputError(f"repo_id {repo_id!r} names no repository: give a hub id such as 'user/model'")
    api = HfApi()
    api.create_repo(repo_id, exist_ok=True, **options)
    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder) / "model")
        return str(api.upload_folder(repo_id=repo_id, folder_path=str(Path(folder) / "model")))


def _shipped(source: str) -> Path:
    """Folder of a model that comes with this package."""
    root = Path(__file__).parent / "shipped"
    folder = root / source.removeprefix(SHIPPED)
    names = sorted(path.name for path in root.iterdir() if (path / ABOUT).is_file())
    if folder.name not in names:
        raise InputError(f"{source}: this package ships {', '.join(SHIPPED + name for name in names)}")
    return folder


def _from_hub(repo_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo_id, allow_patterns=[ABOUT, WEIGHTS]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"{repo_id}: neither a folder nor a repository that can be reached ({type(error).__name__}). "
            "Give a folder that save_pretrained wrote, or a hub id."
        ) from error
