"""Memories of texts as bytes: those of a safetensors file, which `Memory.load` reads too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from safetensors import SafetensorError
from safetensors.torch import load, save

from r3mem.errors import R3MemError, RecallError
from r3mem.memory import Memory
from r3mem.model import R3Mem
from r3mem.plain_data.seal import SEAL, tensors_digest

#: Parts of a fingerprint that decide whether words come back.
RECALL_NAMES = ("backbone", "stack", "prior")


@dataclass(frozen=True)
class Record:
    """A text's virtual tokens, ready to be stored: recalled once from these very bytes.

    Attributes:
        data: A safetensors file.
        tokens: Text tokens.
        positions: Virtual tokens.
        ratio: Text tokens per virtual token.
        model: Name of the model that made it, see `made_by`.
    """

    data: bytes
    tokens: int
    positions: int
    ratio: int
    model: str


def records(model: R3Mem, texts: Sequence[str], ratio: int | None = None) -> list[Record | R3MemError]:
    """Compress texts, and recall each from what will be stored.

    Args:
        model: The model.
        texts: The texts.
        ratio: Text tokens per virtual token; None for the model's own.

    Returns:
        For each text its record, or why there is none.
    """
    with model.at_ratio(ratio):
        try:
            memories: list[Memory | R3MemError] = list(model.retain(list(texts)))
        except R3MemError:
            memories = [_alone(model, text) for text in texts]
    return [m if isinstance(m, R3MemError) else _proved(model, m, t) for m, t in zip(memories, texts, strict=True)]


def _alone(model: R3Mem, text: str) -> Memory | R3MemError:
    try:
        return model.retain(text)
    except R3MemError as error:
        return error


def _proved(model: R3Mem, memory: Memory, text: str) -> Record | R3MemError:
    data = _packed(memory)
    try:
        same = model.recall(unpacked(data, "new")) == text
    except R3MemError as error:
        return error
    if not same:
        return RecallError("what is recalled is not the text: its raw text is kept")
    return Record(data, memory.n_tokens, memory.n_slots, memory.ratio, _name(memory.fingerprint))


def _packed(memory: Memory) -> bytes:
    tensors, about = memory.tensors()
    # Tensors of one memory are written once each: safetensors refuses those that share it.
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    return bytes(save(tensors, {**about, SEAL: tensors_digest(tensors, about)}))


def unpacked(data: bytes, where: str) -> Memory:
    """The memory of such bytes.

    Args:
        data: A safetensors file.
        where: Named in errors.

    Raises:
        RecallError: They are damaged.
    """
    try:
        size = int.from_bytes(data[:8], "little")
        about = json.loads(data[8 : 8 + size])["__metadata__"]
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise RecallError(f"memory {where} is damaged ({error}): restore it from a copy") from error
    return Memory.of_tensors(tensors, about, where)


def recalled(model: R3Mem, data: bytes, where: str) -> str:
    """The text of such bytes.

    Args:
        model: The model.
        data: A safetensors file.
        where: Named in errors.

    Raises:
        RecallError: They are damaged.
        FingerprintError: They are of another model.
    """
    return model.recall(unpacked(data, where))


def made_by(model: R3Mem, ratio: int | None = None) -> str:
    """The name of a model, as it is kept beside its memories: equal for models that recall each other's.

    Args:
        model: The model.
        ratio: Of the memories.
    """
    with model.at_ratio(ratio):
        return _name(model.fingerprint)


def _name(fingerprint: Mapping[str, str]) -> str:
    told = json.dumps([fingerprint.get(part) for part in RECALL_NAMES])
    return hashlib.sha256(told.encode()).hexdigest()[:16]
